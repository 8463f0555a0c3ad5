implement Llambo;

#
# Llambo: llama.cpp as files.  See llambo-ffi(2), and llambo(4) for the files.
#
# A Bridge is hardly more than a directory: what is to be remembered,
# the file server remembers.  Nothing here uses the session at its root,
# which others may share: a command goes to the ctl of a session that ends
# when that is closed, a question to a session of its own.
#

include "sys.m";
	sys: Sys;

include "bufio.m";
	bufio: Bufio;

include "dial.m";
	dial: Dial;

include "env.m";
	env: Env;

include "json.m";
	json: JSON;
	JValue: import json;

include "readdir.m";
	readdir: Readdir;

include "string.m";
	str: String;

include "llambo-ffi.m";

ATONCE:	con 32;		# questions of multi at once: as many as a model answers by default
PATIENCE:	con 3000;	# ms for the members of a pool to say how busy they are
RETRY:	con 5000;	# ms until one that is gone is tried again

Eclosed:	con "this session is closed";
Eover:	con "disconnected: i/o on hungup channel";	# as gone wants it

# mount points where nothing came to be mounted, and the number of the next one.
# No other is used again: sessions of the bridge that was there have their paths.
mountpoints: chan of (list of string, int);

# one relay is started at a time: where it was several, emu was seen to stop for ever
relaying: chan of int;

init(): string
{
	sys = load Sys Sys->PATH;
	if(mountpoints == nil){
		mountpoints = chan[1] of (list of string, int);
		mountpoints <-= (nil, 0);
		relaying = chan[1] of int;
	}
	bufio = load Bufio Bufio->PATH;
	if(bufio == nil)
		return nomod(Bufio->PATH);
	dial = load Dial Dial->PATH;
	if(dial == nil)
		return nomod(Dial->PATH);
	env = load Env Env->PATH;
	if(env == nil)
		return nomod(Env->PATH);
	json = load JSON JSON->PATH;
	if(json == nil)
		return nomod(JSON->PATH);
	json->init(bufio);
	readdir = load Readdir Readdir->PATH;
	if(readdir == nil)
		return nomod(Readdir->PATH);
	str = load String String->PATH;
	if(str == nil)
		return nomod(String->PATH);
	return nil;
}

nomod(path: string): string
{
	return sys->sprint("can't load %s: %r", path);
}

#
# connecting
#

Bridge.connect(addr, dir: string): (ref Bridge, string)
{
	fd, stderr: ref Sys->FD;
	err: string;

	if(addr == nil)
		addr = "unix!";
	if(str->prefix("unix!", addr)){
		relaying <-= 1;
		(fd, stderr, err) = relay(addr[len "unix!":]);
		<-relaying;
	}else if(str->prefix("tcp!", addr)){
		c := dial->dial(addr, nil);
		if(c == nil)
			return (nil, sys->sprint("can't dial %s: %r", addr));
		fd = c.dfd;
	}else
		return mountedat(addr);
	if(err != nil)
		return (nil, err);
	chosen := dir == nil;
	if(chosen)
		(dir, err) = choosedir();
	else
		err = makedir(dir);
	# a root session of its own, which ends with this mount
	if(err == nil && sys->mount(fd, nil, dir, Sys->MREPL, "new") < 0){
		err = sys->sprint("can't mount %s on %s: %r", addr, dir);
		fd = nil;	# which ends the relay, if it has not ended
		if(stderr != nil && (why := complaint(stderr)) != nil)
			err = why;
	}
	if(err != nil){
		if(chosen)
			sparedir(dir);
		return (nil, err);
	}
	return (ref Bridge(addr, dir, 1), nil);
}

# a bridge that somebody mounted
mountedat(dir: string): (ref Bridge, string)
{
	while(len dir > 1 && dir[len dir - 1] == '/')
		dir = dir[0:len dir - 1];
	(ok, d) := sys->stat(dir);
	if(ok < 0){
		err := sys->sprint("%r");
		if(gone(err))
			err += " (mountllm mounts it again)";
		else
			err += " (a socket is unix!PATH)";
		return (nil, sys->sprint("can't find %s: %s", dir, err));
	}
	if((d.mode & Sys->DMDIR) == 0)
		return (nil, sys->sprint("%s is not a directory (a socket is unix!PATH)", dir));
	if(sys->stat(dir+"/clone").t0 < 0){
		err := sys->sprint("%r");
		if(!gone(err))
			err = "mountllm mounts one";
		return (nil, sys->sprint("no bridge is mounted at %s: %s", dir, err));
	}
	return (ref Bridge(dir, dir, 0), nil);
}

# Inferno dials no unix sockets: `llambo dial' on the host relays to one.
# The file data of its cmd(3) can be mounted as it is.
relay(socket: string): (ref Sys->FD, ref Sys->FD, string)
{
	program := env->getenv("llambo");
	if(program == nil)
		program = "llambo";
	ctl := sys->open("#C/cmd/clone", Sys->ORDWR);
	if(ctl == nil)
		return (nil, nil, sys->sprint("can't run %s on the host: #C/cmd/clone: %r", program));
	buf := array[32] of byte;
	n := sys->read(ctl, buf, len buf);
	if(n <= 0)
		return (nil, nil, sys->sprint("can't read #C/cmd/clone: %r"));
	dir := "#C/cmd/" + string buf[0:n];
	cmd := program :: "dial" :: nil;
	if(socket != nil)
		cmd = program :: "dial" :: socket :: nil;
	if(sys->fprint(ctl, "exec %s", str->quoted(cmd)) < 0)
		return (nil, nil, sys->sprint("can't run %s on the host: %r (its whole path can be in $llambo)", program));
	data := sys->open(dir+"/data", Sys->ORDWR);
	stderr := sys->open(dir+"/stderr", Sys->OREAD);
	if(data == nil || stderr == nil)
		return (nil, nil, sys->sprint("can't open %s: %r", dir));
	return (data, stderr, nil);
}

# of /n/llm0, /n/llm1, ... one where no bridge is mounted
choosedir(): (string, string)
{
	for(;;){
		dir := nextdir();
		if(sys->stat(dir).t0 < 0 && gone(sys->sprint("%r")))
			continue;	# what somebody left of a bridge that ended
		if((err := makedir(dir)) != nil)
			return (dir, err);
		if(sys->stat(dir+"/clone").t0 < 0)
			return (dir, nil);
	}
}

nextdir(): string
{
	(spare, n) := <-mountpoints;
	dir: string;
	if(spare != nil){
		dir = hd spare;
		spare = tl spare;
	}else
		dir = DIR + string n++;
	mountpoints <-= (spare, n);
	return dir;
}

sparedir(dir: string)
{
	(spare, n) := <-mountpoints;
	mountpoints <-= (dir :: spare, n);
}

makedir(dir: string): string
{
	(ok, d) := sys->stat(dir);
	if(ok >= 0 && (d.mode & Sys->DMDIR) == 0)
		return sys->sprint("can't mount on %s: it is no directory", dir);
	if(ok >= 0)
		return nil;
	if(sys->create(dir, Sys->OREAD, Sys->DMDIR|8r777) == nil)
		return sys->sprint("can't make %s: %r (mount -a {mntgen} /n makes all of /n)", dir);
	return nil;
}

# what `llambo dial' said before it ended
complaint(stderr: ref Sys->FD): string
{
	(text, nil) := readall(stderr);
	line := str->splitl(text, "\n").t0;
	if(str->prefix("llambo: ", line))
		line = line[len "llambo: ":];
	return line;
}

# Sessions that are left see from its dir that it is over.
Bridge.disconnect(b: self ref Bridge): string
{
	dir := b.dir;
	b.dir = nil;
	if(dir != nil && b.mounted && sys->unmount(nil, dir) < 0)
		return sys->sprint("can't unmount %s: %r", dir);
	return nil;
}

# does this error mean that the bridge is gone?
gone(err: string): int
{
	return ends(err, "mount rpc error" :: "hungup channel" :: "roken pipe" ::
		"onnection reset by peer" :: "shutting down" :: nil);
}

# or that it has no room now?
full(err: string): int
{
	return str->prefix("busy:", err) || str->splitstrl(err, "temporarily out of").t1 != nil ||
		ends(err, "too many sessions" :: nil);
}

ends(s: string, l: list of string): int
{
	for(; l != nil; l = tl l)
		if(len s >= len hd l && s[len s - len hd l:] == hd l)
			return 1;
	return 0;
}

#
# commands
#

Bridge.ping(b: self ref Bridge): string
{
	return bridgecommand(b, "PING");
}

Bridge.loadmodel(b: self ref Bridge, model: string, opts: list of (string, string)): string
{
	cmd := sys->sprint("LOAD %q", model);
	for(; opts != nil; opts = tl opts)
		cmd += sys->sprint(" %q", (hd opts).t0 + "=" + (hd opts).t1);
	return bridgecommand(b, cmd);
}

Bridge.free(b: self ref Bridge, model: string): string
{
	if(model == nil)
		return bridgecommand(b, "FREE");
	return bridgecommand(b, sys->sprint("FREE %q", model));
}

Bridge.status(b: self ref Bridge): (ref Status, string)
{
	if(b.dir == nil)
		return (nil, Eover);
	if(b.mounted)
		return readstatus(b.dir);
	# others may have chosen a model for the session at the root
	(s, err) := b.session();
	if(s == nil)
		return (nil, err);
	st: ref Status;
	(st, err) = s.status();
	s.close();
	return (st, err);
}

Bridge.models(b: self ref Bridge): (list of string, string)
{
	if(b.dir == nil)
		return (nil, Eover);
	(dirs, n) := readdir->init(b.dir+"/models", Readdir->NAME|Readdir->DESCENDING);
	if(n < 0)
		return (nil, sys->sprint("can't read %s/models: %r", b.dir));
	names: list of string;
	for(i := 0; i < n; i++)
		names = dirs[i].name :: names;
	return (names, nil);
}

# In a session that nobody asks for its number, which so ends with its file.
bridgecommand(b: ref Bridge, cmd: string): string
{
	if(b.dir == nil)
		return Eover;
	fd := sys->open(b.dir+"/clone", Sys->ORDWR);
	if(fd == nil)
		return sys->sprint("can't open %s/clone: %r", b.dir);
	return exchange(fd, cmd).t1;
}

# a command, and the message of its reply or the error
exchange(fd: ref Sys->FD, cmd: string): (string, string)
{
	if(str->splitl(cmd, "\n").t1 != nil)
		return (nil, "invalid command: it has more than one line");
	if((err := writeall(fd, cmd+"\n")) != nil && len array of byte err < Sys->ERRMAX-4)
		return (nil, err);
	# an error that may have been cut is whole in the reply
	sys->seek(fd, big 0, Sys->SEEKSTART);
	(text, rerr) := readall(fd);
	if(err == nil)
		err = rerr;
	v: ref JValue;
	if(rerr == nil)
		(v, rerr) = parse(text);
	if(rerr != nil && err == nil)
		err = rerr;
	message := jstring(v, "message");
	if(jstring(v, "status") == "error" && message != nil)
		err = message;
	if(err != nil)
		return (nil, err);
	return (message, nil);
}

#
# questions
#

Bridge.infer(b: self ref Bridge, prompt: string, params: list of (string, string)): (string, string)
{
	(s, err) := b.session();
	if(s == nil)
		return (nil, err);
	text: string;
	if((err = s.set(params)) == nil)
		(text, err) = s.ask(prompt);
	s.close();
	return (text, err);
}

Bridge.stream(b: self ref Bridge, prompt: string, params: list of (string, string)): chan of (string, string)
{
	c := chan of (string, string);
	spawn bridgestream(b, prompt, params, c);
	return c;
}

bridgestream(b: ref Bridge, prompt: string, params: list of (string, string), c: chan of (string, string))
{
	(s, err) := b.session();
	if(s == nil){
		c <-= (nil, err);
		return;
	}
	if((err = s.set(params)) == nil)
		err = pieces(s, prompt, c);
	s.close();
	c <-= (nil, err);
}

# INFER_MULTI would be one command, but has no way to say a newline or ||.
# The bridge answers the sessions that wait as one batch all the same.
Bridge.multi(b: self ref Bridge, prompts: array of string, params: list of (string, string)): (array of string, string)
{
	n := len prompts;
	workers := n;
	if(workers > ATONCE)
		workers = ATONCE;
	todo := chan[n+workers] of int;
	for(i := 0; i < n; i++)
		todo <-= i;
	done := chan of (int, string, string);
	for(i = 0; i < workers; i++){
		todo <-= -1;
		spawn multiworker(b, prompts, params, todo, done);
	}
	texts := array[n] of string;
	errs := array[n] of string;
	for(i = 0; i < n; i++){
		(k, text, err) := <-done;
		texts[k] = text;
		errs[k] = err;
	}
	for(i = 0; i < n && errs[i] == nil; i++)
		;
	if(i < n)
		return (texts, errs[i]);
	return (texts, nil);
}

multiworker(b: ref Bridge, prompts: array of string, params: list of (string, string), todo: chan of int, done: chan of (int, string, string))
{
	while((i := <-todo) >= 0){
		(text, err) := b.infer(prompts[i], params);
		done <-= (i, text, err);
	}
}

#
# sessions
#

Bridge.session(b: self ref Bridge): (ref Session, string)
{
	return newsession(b, b.dir);
}

# a fork has the conversation so far
Session.fork(s: self ref Session): (ref Session, string)
{
	if(s.ctl == nil)
		return (nil, Eclosed);
	return newsession(s.b, s.dir);
}

newsession(b: ref Bridge, dir: string): (ref Session, string)
{
	if(b.dir == nil)
		return (nil, Eover);
	ctl := sys->open(dir+"/clone", Sys->ORDWR);
	if(ctl == nil)
		return (nil, sys->sprint("can't open %s/clone: %r", dir));
	buf := array[32] of byte;
	n := sys->read(ctl, buf, len buf);
	if(n <= 0)
		return (nil, sys->sprint("can't read %s/clone: %r", dir));
	name := str->take(string buf[0:n], "0-9");
	return (ref Session(b, name, b.dir+"/"+name, ctl, chan[1] of int), nil);
}

# a file of the session
fopen(s: ref Session, file: string, mode: int): (ref Sys->FD, string)
{
	if(s.ctl == nil)
		return (nil, Eclosed);
	fd := sys->open(s.dir+"/"+file, mode);
	err: string;
	if(fd == nil)
		err = sys->sprint("can't open %s/%s: %r", s.dir, file);
	if(s.b.dir == nil)
		return (nil, Eover);
	return (fd, err);
}

Session.close(s: self ref Session): string
{
	if(s.ctl == nil)
		return Eclosed;
	err := writeall(s.ctl, "CLOSE\n");	# also beside a command that waits
	s.ctl = nil;
	return err;
}

Session.ask(s: self ref Session, prompt: string): (string, string)
{
	(fd, err) := fopen(s, "prompt", Sys->ORDWR);
	if(fd == nil)
		return (nil, err);
	if((err = writeall(fd, prompt+"\n")) != nil)
		return (nil, err);
	return readall(fd);
}

Session.stream(s: self ref Session, prompt: string): chan of (string, string)
{
	c := chan of (string, string);
	spawn sessionstream(s, prompt, c);
	return c;
}

sessionstream(s: ref Session, prompt: string, c: chan of (string, string))
{
	c <-= (nil, pieces(s, prompt, c));
}

# The server cuts what it sends between characters: each read is whole text.
pieces(s: ref Session, prompt: string, c: chan of (string, string)): string
{
	if((err := s.put("prompt", prompt+"\n")) != nil)
		return err;
	fd: ref Sys->FD;
	(fd, err) = fopen(s, "output", Sys->OREAD);
	if(fd == nil)
		return err;
	buf := array[Sys->ATOMICIO] of byte;
	while((n := sys->read(fd, buf, len buf)) > 0)
		c <-= (string buf[0:n], nil);
	if(n < 0)
		return sys->sprint("%r");
	return nil;
}

Session.cancel(s: self ref Session): string
{
	# not through s.ctl, where a command may wait for its reply
	(fd, err) := fopen(s, "ctl", Sys->OWRITE);
	if(fd == nil)
		return err;
	return writeall(fd, "CANCEL\n");
}

Session.reset(s: self ref Session): string
{
	return s.command("RESET").t1;
}

Session.command(s: self ref Session, cmd: string): (string, string)
{
	if(s.ctl == nil)
		return (nil, Eclosed);
	s.lock <-= 1;
	(message, err) := exchange(s.ctl, cmd);
	<-s.lock;
	return (message, err);
}

# one that is loaded is only chosen: LOAD would make it the one that others use by default
Session.usemodel(s: self ref Session, model: string): string
{
	(nil, err) := s.command(sys->sprint("USE %q", model));
	if(err != nil && !gone(err))
		(nil, err) = s.command(sys->sprint("LOAD %q", model));
	return err;
}

Session.set(s: self ref Session, params: list of (string, string)): string
{
	if(params == nil)
		return nil;
	text: string;
	for(; params != nil; params = tl params)
		text += (hd params).t0 + " " + (hd params).t1 + "\n";
	return s.put("params", text);
}

Session.get(s: self ref Session, file: string): (string, string)
{
	(fd, err) := fopen(s, file, Sys->OREAD);
	if(fd == nil)
		return (nil, err);
	return readall(fd);
}

Session.put(s: self ref Session, file, text: string): string
{
	(fd, err) := fopen(s, file, Sys->OWRITE|Sys->OTRUNC);
	if(fd == nil)
		return err;
	if(text == nil)
		return nil;
	return writeall(fd, text);
}

#
# what there is in JSON
#

Session.status(s: self ref Session): (ref Status, string)
{
	(text, err) := s.get("status");
	if(err != nil)
		return (nil, err);
	return parsestatus(text);
}

readstatus(dir: string): (ref Status, string)
{
	fd := sys->open(dir+"/status", Sys->OREAD);
	if(fd == nil)
		return (nil, sys->sprint("can't open %s/status: %r", dir));
	(text, err) := readall(fd);
	if(err != nil)
		return (nil, err);
	return parsestatus(text);
}

parsestatus(text: string): (ref Status, string)
{
	(v, err) := parse(text);
	if(v == nil)
		return (nil, err);
	s := v.get("session");
	m := v.get("model");
	b := v.get("bridge");
	return (ref Status(
		jstring(s, "state"), jstring(s, "error"), jint(s, "turns"),
		jstring(m, "name"), jstring(m, "path"), jstring(m, "state"), jreal(m, "progress"),
		jstring(m, "note"), jstring(m, "engine"), jint(m, "n_ctx"),
		jstring(b, "version"), jreal(b, "uptime"), jint(b, "sessions"),
		jint(b, "connections"), jint(b, "running"), jint(b, "queued")), nil);
}

Session.usage(s: self ref Session): (ref Usage, string)
{
	(text, err) := s.get("usage");
	if(err != nil)
		return (nil, err);
	v: ref JValue;
	(v, err) = parse(text);
	if(v == nil)
		return (nil, err);
	l := v.get("last");
	return (ref Usage(
		jint(l, "prompt_tokens"), jint(l, "cached_tokens"), jint(l, "completion_tokens"),
		jstring(l, "finish_reason"),
		jreal(l, "queue_s"), jreal(l, "prefill_s"), jreal(l, "decode_s")), nil);
}

parse(text: string): (ref JValue, string)
{
	(v, err) := json->readjson(bufio->sopen(text));
	if(v == nil && err == nil)
		err = "JSON: nothing to read";
	return (v, err);
}

# Members that an older bridge lacks, and nulls, are nil or 0.

member(v: ref JValue, name: string): ref JValue
{
	if(v == nil)
		return nil;
	return v.get(name);
}

jstring(v: ref JValue, name: string): string
{
	v = member(v, name);
	if(v != nil) pick s := v {
	String =>
		return s.s;
	}
	return nil;
}

jint(v: ref JValue, name: string): int
{
	return int jreal(v, name);
}

jreal(v: ref JValue, name: string): real
{
	v = member(v, name);
	if(v != nil) pick n := v {
	Int =>
		return real n.value;
	Real =>
		return n.value;
	}
	return 0.0;
}

#
# files
#

writeall(fd: ref Sys->FD, text: string): string
{
	a := array of byte text;
	if(sys->write(fd, a, len a) != len a)
		return sys->sprint("%r");
	return nil;
}

# With an error there is the text before it.
readall(fd: ref Sys->FD): (string, string)
{
	a := array[Sys->ATOMICIO] of byte;
	n := 0;
	while((m := sys->read(fd, a[n:], len a - n)) > 0){
		n += m;
		if(len a - n < Sys->ATOMICIO){
			b := array[2 * len a] of byte;
			b[0:] = a[0:n];
			a = b;
		}
	}
	if(m < 0)
		return (string a[0:n], sys->sprint("%r"));
	return (string a[0:n], nil);
}

#
# pools
#

Pool.new(addrs: list of string): (ref Pool, string)
{
	p := ref Pool(array[len addrs] of ref Member, chan[1] of int, 0);
	for(i := 0; i < len p.members; i++){
		p.members[i] = ref Member(hd addrs, nil, nil, nil, 0, 0, 0);
		addrs = tl addrs;
	}
	p.survey();
	(nil, err) := idlest(p, nil);
	return (p, err);
}

Pool.take(p: self ref Pool): (ref Bridge, string)
{
	return takebut(p, nil);
}

# but none of these
takebut(p: ref Pool, these: list of ref Bridge): (ref Bridge, string)
{
	p.lock <-= 1;
	survey(p, RETRY);
	(m, err) := idlest(p, these);
	b: ref Bridge;
	if(m != nil){
		m.busy++;
		b = m.b;
	}
	<-p.lock;
	return (b, err);
}

# or, if none lives, why each does not
idlest(p: ref Pool, these: list of ref Bridge): (ref Member, string)
{
	best: ref Member;
	errs: string;
	for(i := 0; i < len p.members; i++){
		m := p.members[i];
		if(m.asked || m.b == nil)
			errs += "; " + whynot(m, p);
		else if(!among(m.b, these) && (best == nil || burden(m) < burden(best)))
			best = m;
	}
	if(best != nil)
		return (best, nil);
	if(these != nil)
		return (nil, "busy: all bridges");
	if(errs == nil)
		return (nil, "a pool of no bridges");
	return (nil, errs[2:]);
}

whynot(m: ref Member, p: ref Pool): string
{
	if(len p.members == 1)
		return m.err;
	return m.addr + ": " + m.err;
}

among(b: ref Bridge, l: list of ref Bridge): int
{
	for(; l != nil; l = tl l)
		if(hd l == b)
			return 1;
	return 0;
}

# A bridge that was taken a moment ago does not show it yet,
# and later shows what is known here: the larger number is the nearer one.
# One that has no model is the last to be taken.
burden(m: ref Member): int
{
	n := m.st.running + m.st.queued;
	if(n < m.busy)
		n = m.busy;
	if(m.st.model == nil)
		n += Sys->Maxint/2;
	return n;
}

Pool.survey(p: self ref Pool)
{
	p.lock <-= 1;
	survey(p, 0);
	<-p.lock;
}

# Ask each how it is, beside each other, and wait for those that answer soon;
# those that went less than ms ago are not tried again.
survey(p: ref Pool, ms: int)
{
	if(p.over)
		return;
	now := sys->millisec();
	n := 0;
	answers := chan[len p.members] of int;
	for(i := 0; i < len p.members; i++){
		m := p.members[i];
		if(m.asked || m.b == nil && m.err != nil && now - m.tried < ms)
			continue;
		m.asked = 1;
		m.err = sys->sprint("no answer in %d s", PATIENCE/1000);
		spawn ask(p, m, answers);
		n++;
	}
	pid := chan of int;
	alarm := chan[1] of int;
	spawn timer(PATIENCE, pid, alarm);
	timerpid := <-pid;
	for(; n > 0; n--) alt {
	<-answers =>
		;
	<-alarm =>
		return;
	}
	kill(timerpid);
}

# One that was connected may have ended and be there again.
# Whatever hangs here may have been dropped, or all of the pool, when it goes on.
ask(p: ref Pool, m: ref Member, answers: chan of int)
{
	st: ref Status;
	err: string;
	b := m.b;
	if(b != nil){
		(st, err) = b.status();
		if(st == nil)
			b.disconnect();
	}
	if(b == nil || b.dir == nil){
		(b, err) = Bridge.connect(m.addr, nil);
		if(b != nil){
			(st, err) = b.status();
			if(p.over)
				err = "disconnected";
			if(err != nil)
				b.disconnect();
		}
	}
	if(b != nil && b.dir == nil)
		b = nil;
	if(b != m.b)
		m.busy = 0;
	m.b = b;
	m.st = st;
	m.err = err;
	m.tried = sys->millisec();
	m.asked = 0;
	answers <-= 1;
}

drop(m: ref Member, err: string)
{
	if(m.b != nil)
		m.b.disconnect();
	m.b = nil;
	m.st = nil;
	m.busy = 0;
	m.err = err;
	m.tried = sys->millisec();
}

timer(ms: int, pid, alarm: chan of int)
{
	pid <-= sys->pctl(0, nil);
	sys->sleep(ms);
	alarm <-= 1;
}

kill(pid: int)
{
	fd := sys->open("#p/"+string pid+"/ctl", Sys->OWRITE);
	if(fd != nil)
		sys->fprint(fd, "kill");
}

Pool.release(p: self ref Pool, b: ref Bridge, err: string)
{
	p.lock <-= 1;
	if((m := memberof(p, b)) != nil)
		m.busy--;
	<-p.lock;
	p.lost(b, err);
}

Pool.lost(p: self ref Pool, b: ref Bridge, err: string)
{
	if(!gone(err))
		return;
	p.lock <-= 1;
	if((m := memberof(p, b)) != nil)
		drop(m, err);
	<-p.lock;
}

# nil: it was dropped already
memberof(p: ref Pool, b: ref Bridge): ref Member
{
	for(i := 0; i < len p.members; i++)
		if(b != nil && p.members[i].b == b)
			return p.members[i];
	return nil;
}

# One that is full is left alone for this question, one that is gone is dropped.
Pool.infer(p: self ref Pool, prompt: string, params: list of (string, string)): (string, string)
{
	text, err: string;
	these: list of ref Bridge;
	for(tries := 0; tries <= len p.members; tries++){
		(b, e) := takebut(p, these);
		if(b == nil){
			if(err == nil)
				err = e;
			break;
		}
		(text, err) = b.infer(prompt, params);
		p.release(b, err);
		if(full(err))
			these = b :: these;
		else if(!gone(err))
			break;
	}
	return (text, err);
}

Pool.disconnect(p: self ref Pool)
{
	p.lock <-= 1;
	p.over = 1;
	for(i := 0; i < len p.members; i++)
		drop(p.members[i], "disconnected");
	<-p.lock;
}
