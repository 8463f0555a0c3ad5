implement Llambotest;

#
# llambotest: does everything between a Limbo program and its bridge work?
# Prints what the Test Anything Protocol wants: a plan, and a line a test.
# A test gets a session of its own and some seconds.  What hangs is killed;
# when the bridge does not answer afterwards, that is the end.
#

include "sys.m";
	sys: Sys;

include "draw.m";

include "arg.m";

include "bufio.m";
	bufio: Bufio;
	Iobuf: import bufio;

include "json.m";
	json: JSON;
	JValue: import json;

include "string.m";
	str: String;

include "llambo-ffi.m";
	llambo: Llambo;
	Bridge, Session, Status, Usage, Pool: import llambo;

Llambotest: module
{
	init:	fn(nil: ref Draw->Context, args: list of string);
};

SOON:	con 30;		# s for what has no answer, or a few words
ANSWERS:	con 180;	# for many answers, or a long prompt
LOADING:	con 600;	# for a model

SKIP:	con "# skip ";	# begins the result of a test that does not apply

GREEK:	con "τί ἐστι τὸ ἀρχεῖον; 😀 a file: 文件";

Test: adt {
	what:	string;
	limit:	int;
	f:	Testfn;		# what was seen that is wrong; nil if nothing
};
Testfn: type ref fn(s: ref Session): string;

Run: adt {
	group:	int;		# of its processes
	s:	ref Session;	# its own, while that is open
};

stderr: ref Sys->FD;
addr, model: string;	# as they were given
b: ref Bridge;
first: ref Status;		# before the tests
root: string;		# what the session at the root held then
echo: int;		# the answer is the prompt: the engine is no model

init(nil: ref Draw->Context, args: list of string)
{
	sys = load Sys Sys->PATH;
	stderr = sys->fildes(2);
	bufio = load Bufio Bufio->PATH;
	if(bufio == nil)
		nomod(Bufio->PATH);
	json = load JSON JSON->PATH;
	if(json == nil)
		nomod(JSON->PATH);
	json->init(bufio);
	str = load String String->PATH;
	if(str == nil)
		nomod(String->PATH);
	llambo = load Llambo Llambo->PATH;
	if(llambo == nil)
		nomod(Llambo->PATH);
	if((err := llambo->init()) != nil)
		fail("load", err);
	options(args);

	sys->pctl(Sys->FORKNS, nil);	# connect mounts
	if((err = run(ref Test(nil, SOON, connect))) != nil || (err = run(ref Test(nil, LOADING, setup))) != nil){
		sys->print("Bail out! %s\n", err);
		raise "fail:setup";
	}
	sys->print("# llambo %s at %s, engine %s, model %s\n", first.version, b.dir, first.engine, first.model);
	runall(tests());
}

options(args: list of string)
{
	arg := load Arg Arg->PATH;
	if(arg == nil)
		nomod(Arg->PATH);
	arg->init(args);
	arg->setusage("llambotest [-a addr] [-m model]");
	addr = Llambo->DIR;
	while((o := arg->opt()) != 0)
		case o {
		'a' =>
			addr = arg->earg();
		'm' =>
			model = arg->earg();
		* =>
			arg->usage();
		}
	if(arg->argv() != nil)
		arg->usage();
}

nomod(path: string)
{
	fail("load", sys->sprint("can't load %s: %r", path));
}

fail(status, why: string)
{
	sys->fprint(stderr, "llambotest: %s\n", why);
	raise "fail:"+status;
}

tests(): array of ref Test
{
	return array[] of {
	ref Test("connect: no socket there", SOON, nosocket),
	ref Test("connect: nobody at a TCP port", SOON, noport),
	ref Test("connect: not a bridge's directory", SOON, nobridge),
	ref Test("connect: a mount point that can't be made", SOON, nomountpoint),
	ref Test("connect: a mount point that is a file", SOON, filemountpoint),
	ref Test("ping", SOON, ping),
	ref Test("status has sensible values", SOON, status),
	ref Test("models has the one in use", SOON, models),
	ref Test("loadmodel: a wrong path is an error", SOON, wrongpath),
	ref Test("loadmodel: no name is an error", SOON, nopath),
	ref Test("loadmodel: a bad option is an error that names it", SOON, badoption),

	ref Test("infer", SOON, infer),
	ref Test("infer: parameters hold for that answer", SOON, inferparams),
	ref Test("infer: a bad parameter is an error that names it", SOON, badparam),
	ref Test("infer: an empty prompt is an error", SOON, emptyprompt),
	ref Test("infer: the same twice with temperature 0", SOON, twice),
	ref Test("ask: at most max_tokens", SOON, maxtokens),
	ref Test("ask: Greek, Chinese and an emoji", SOON, greek),
	ref Test("ask: several lines", SOON, lines),
	ref Test("ask: a prompt with ||", SOON, bars),
	ref Test("ask: a prompt over 8,192 bytes", ANSWERS, longprompt),
	ref Test("ask: busy while an answer runs", SOON, busy),

	ref Test("stream: its pieces are the answer", SOON, stream),
	ref Test("stream: of a bridge", SOON, bridgestream),
	ref Test("stream: an answer over 8,192 bytes", ANSWERS, longstream),
	ref Test("stream: an empty prompt is an error", SOON, emptystream),
	ref Test("cancel ends a stream, and the session goes on", SOON, cancel),
	ref Test("cancel: nothing to cancel is no error", SOON, nothingtocancel),
	ref Test("cancel ends a command that waits", SOON, cancelcommand),
	ref Test("multi: answers in order", ANSWERS, multi),
	ref Test("multi: 40 questions", ANSWERS, multi40),
	ref Test("multi: one bad question of three", ANSWERS, multibad),
	ref Test("multi: no questions", SOON, multinone),

	ref Test("session: a question sees those before it", SOON, conversation),
	ref Test("session: reset forgets", SOON, reset),
	ref Test("session: reset keeps the settings", SOON, resetkeeps),
	ref Test("session: a fork has the conversation", SOON, forkhas),
	ref Test("session: a fork is independent", SOON, forkalone),
	ref Test("session: system, written and read", SOON, system),
	ref Test("session: set leaves other settings alone", SOON, settings),
	ref Test("session: context, saved and put back", SOON, savecontext),
	ref Test("session: a bad context is an error", SOON, badcontext),
	ref Test("session: usage adds up", SOON, usage),
	ref Test("session: two at once", ANSWERS, two),
	ref Test("session: ten at once", ANSWERS, ten),
	ref Test("session: closed, its directory is gone", SOON, closedgone),
	ref Test("session: closed, it is an error", SOON, closederror),
	ref Test("command: an unknown one is an error", SOON, unknown),
	ref Test("command: an error over 127 bytes is whole", SOON, longerror),
	ref Test("command: a newline is refused", SOON, newline),

	ref Test("two bridges at once", SOON, twobridges),
	ref Test("bridges that connect at once have their own directories", SOON, connectrace),
	ref Test("connect: what fails takes no mount point", SOON, spare),
	ref Test("pool: a dead bridge beside a live one", ANSWERS, poolhalf),
	ref Test("pool: dead bridges only", SOON, pooldead),
	ref Test("nothing changed in the session at the root", SOON, untouched),
	ref Test("free, and load again", LOADING, free),
	ref Test("disconnect leaves an empty directory", SOON, disconnect),
	};
}

#
# running them
#

runall(t: array of ref Test)
{
	sys->print("1..%d\n", len t);
	t0 := sys->millisec();
	failed := skipped := 0;
	for(i := 0; i < len t; i++){
		seen := run(t[i]);
		if(seen == nil)
			sys->print("ok %d %s\n", i+1, t[i].what);
		else if(str->prefix(SKIP, seen)){
			sys->print("ok %d %s %s\n", i+1, t[i].what, seen);
			skipped++;
		}else{
			sys->print("not ok %d %s: %s\n", i+1, t[i].what, short(seen));
			failed++;
			if((why := run(ref Test(nil, SOON, ping))) != nil && i+1 < len t){
				sys->print("Bail out! the bridge does not answer: %s\n", short(why));
				raise sys->sprint("fail:%d of %d failed, %d not tried", failed, len t, len t-i-1);
			}
		}
	}
	sys->print("# %d passed, %d failed, %d skipped, in %d s\n", len t-failed-skipped, failed,
		skipped, (sys->millisec()-t0)/1000);
	if(failed)
		raise sys->sprint("fail:%d of %d failed", failed, len t);
}

run(t: ref Test): string
{
	r := ref Run(0, nil);
	pid := chan of int;
	result := chan[1] of string;
	alarm := chan[1] of int;
	spawn runner(t.f, r, pid, result);
	r.group = <-pid;
	spawn timer(1000*t.limit, pid, alarm);
	timerpid := <-pid;
	seen: string;
	alt {
	seen = <-result =>
		kill(timerpid, "kill");
	<-alarm =>
		seen = sys->sprint("no answer in %d s", t.limit);
	}
	spawn tidy(r);
	return seen;
}

runner(f: Testfn, r: ref Run, pid: chan of int, result: chan of string)
{
	pid <-= sys->pctl(Sys->NEWPGRP, nil);
	seen: string;
	{
		seen = insession(f, r);
	} exception e {
	"*" =>
		seen = "exception: " + e;
	}
	result <-= seen;
	<-chan of int;	# the group is known by this process
}

insession(f: Testfn, r: ref Run): string
{
	if(b == nil || f == ping)
		return f(nil);	# these cannot have one yet, or any more
	(s, err) := b.session();
	if(s == nil)
		return err;
	r.s = s;
	if((seen := s.set(brief())) == nil)
		seen = f(s);
	if(s.ctl != nil && (err = s.close()) != nil && seen == nil)
		seen = "close: " + err;
	r.s = nil;
	return seen;
}

# Apart, since a bridge that hangs does not even let go of a file.
tidy(r: ref Run)
{
	kill(r.group, "killgrp");
	if(r.s == nil)
		return;
	fd := sys->open(r.s.dir+"/ctl", Sys->OWRITE);
	if(fd != nil)
		sys->fprint(fd, "CLOSE\n");
}

kill(pid: int, how: string)
{
	fd := sys->open("#p/"+string pid+"/ctl", Sys->OWRITE);
	if(fd != nil)
		sys->fprint(fd, "%s", how);
}

timer(ms: int, pid, alarm: chan of int)
{
	pid <-= sys->pctl(0, nil);
	sys->sleep(ms);
	alarm <-= 1;
}

# on one line of the terminal, more or less
short(s: string): string
{
	t := "";
	for(i := 0; i < len s && i < 300; i++)
		if(s[i] == '\n')
			t += "\\n";
		else
			t[len t] = s[i];
	if(i < len s)
		t += sys->sprint("... (%d characters)", len s);
	return t;
}

#
# what tests say
#

# an error has to be one, and has to say this
errsays(err, what: string): string
{
	if(err == nil)
		return "no error";
	if(!contains(err, what))
		return sys->sprint("the error '%s' without '%s'", err, what);
	return nil;
}

same(seen, wanted: string): string
{
	if(seen != wanted)
		return sys->sprint("'%s' and not '%s'", seen, wanted);
	return nil;
}

sameint(what: string, seen, wanted: int): string
{
	if(seen != wanted)
		return sys->sprint("%s %d and not %d", what, seen, wanted);
	return nil;
}

# is this an answer to the prompt?
answers(text, err, prompt: string): string
{
	if(err != nil)
		return err;
	if(echo)
		return same(text, prompt);
	if(text == nil)
		return "an empty answer";
	return nil;
}

contains(s, t: string): int
{
	return str->splitstrl(s, t).t1 != nil;
}

#
# what they ask
#

# a few tokens, always the same; but all of what echo has to say
brief(): list of (string, string)
{
	tokens := "8";
	if(echo)
		tokens = "100000";
	return ("temperature", "0") :: ("max_tokens", tokens) :: nil;
}

# 9,000 bytes in few words, as echo may be slow; a character lies across byte 8,192
longtext(): string
{
	part := "everything-is-a-file-";
	text := "x";
	for(i := 0; len text < 8100; i++){
		if(i > 0 && i%15 == 0)
			text += " ";
		text += part;
	}
	if(len text % 2 == 0)
		text += "x";
	for(i = 0; i < 100; i++)
		text += "é";
	text += " ";
	for(i = 0; i < 40; i++)
		text += part;
	return text;
}

# a question whose answer takes a while, and that stream after its first piece
startlong(s: ref Session): (chan of (string, string), string, string)
{
	prompt := "Count from one to a thousand, in words.";
	if(echo)
		for(i := 0; i < 4000; i++)
			prompt += " " + string i;
	if((err := s.set(("max_tokens", "5000") :: nil)) != nil)
		return (nil, nil, err);
	c := s.stream(prompt);
	(piece, e) := <-c;
	if(piece == nil && e == nil)
		e = "the stream ended before its first piece";
	return (c, piece, e);
}

drain(c: chan of (string, string)): (string, string)
{
	text := "";
	for(;;){
		(piece, err) := <-c;
		if(piece == nil)
			return (text, err);
		text += piece;
	}
}

# who said what, from context
said(s: ref Session): (array of (string, string), string)
{
	(text, err) := s.get("context");
	if(err != nil)
		return (nil, err);
	(n, l) := sys->tokenize(text, "\n");
	a := array[n] of (string, string);
	for(i := 0; i < n; i++){
		v: ref JValue;
		(v, err) = json->readjson(bufio->sopen(hd l));
		if(v == nil)
			return (nil, sys->sprint("context: %s: %s", err, hd l));
		a[i] = (member(v, "role"), member(v, "content"));
		l = tl l;
	}
	return (a, nil);
}

member(v: ref JValue, name: string): string
{
	v = v.get(name);
	if(v != nil) pick m := v {
	String =>
		return m.s;
	Int =>
		return string m.value;
	}
	return nil;
}

# The prompt comes through as it is: in context, and in the answer of echo.
through(s: ref Session, prompt: string): string
{
	(text, err) := s.ask(prompt);
	if((seen := answers(text, err, prompt)) != nil)
		return seen;
	a: array of (string, string);
	(a, err) = said(s);
	if(err != nil)
		return err;
	if(len a != 2)
		return sys->sprint("%d messages in context", len a);
	if((seen = same(a[0].t1, prompt)) != nil)
		return "in context, " + seen;
	if((seen = same(a[1].t1, text)) != nil)
		return "the answer in context is " + seen;
	return nil;
}

# what can be seen of the session at the root
rootstate(): (string, string)
{
	state: string;
	for(l := "params" :: "system" :: "context" :: nil; l != nil; l = tl l){
		f := bufio->open(b.dir+"/"+hd l, Bufio->OREAD);
		if(f == nil)
			return (nil, sys->sprint("can't open %s/%s: %r", b.dir, hd l));
		while((line := f.gets('\n')) != nil)
			state += line;
	}
	return (state, nil);
}

isdir(): int
{
	return !b.mounted;
}

#
# the bridge
#

connect(nil: ref Session): string
{
	err: string;
	(b, err) = Bridge.connect(addr, nil);
	return err;
}

setup(nil: ref Session): string
{
	err: string;
	if(model != nil && (err = b.loadmodel(model, nil)) != nil)
		return sys->sprint("can't load %s: %s", model, err);
	for(;;){
		(first, err) = b.status();
		if(first == nil)
			return err;
		if(first.state != "loading")
			break;
		sys->sleep(200);
	}
	if(first.state != "ready")
		return sys->sprint("no model is ready (%s): -m names one to load", first.state);
	echo = first.engine == "echo";
	(root, err) = rootstate();
	return err;
}

nosocket(nil: ref Session): string
{
	return badaddr("unix!/nowhere/sock", nil, "/nowhere/sock");
}

noport(nil: ref Session): string
{
	return badaddr("tcp!127.0.0.1!1", nil, "127.0.0.1!1");
}

nobridge(nil: ref Session): string
{
	return badaddr("/dev", nil, "no bridge");
}

nomountpoint(nil: ref Session): string
{
	if(isdir())
		return SKIP+"a directory is mounted already";
	return badaddr(addr, "/prog/nowhere", "/prog/nowhere");
}

filemountpoint(nil: ref Session): string
{
	if(isdir())
		return SKIP+"a directory is mounted already";
	return badaddr(addr, "/dev/null", "");
}

badaddr(addr, dir, what: string): string
{
	(x, err) := Bridge.connect(addr, dir);
	if(x != nil){
		x.disconnect();
		return "it connects";
	}
	return errsays(err, what);
}

ping(nil: ref Session): string
{
	return b.ping();
}

status(s: ref Session): string
{
	(st, err) := b.status();
	if(st == nil)
		return err;
	if(st.version == nil)
		return "no version";
	if(st.uptime <= 0.0)
		return sys->sprint("uptime %g", st.uptime);
	if(st.sessions < 1 || st.connections < 1)
		return sys->sprint("%d sessions, %d connections", st.sessions, st.connections);
	if(st.state != "ready" || st.progress != 1.0)
		return sys->sprint("model %s, progress %g", st.state, st.progress);
	if(st.model == nil || st.path == nil || st.nctx <= 0)
		return sys->sprint("model '%s' of '%s' with a context of %d", st.model, st.path, st.nctx);
	(st, err) = s.status();
	if(st == nil)
		return err;
	if(st.session != "idle" || st.error != nil || st.turns != 0)
		return sys->sprint("a new session is %s, has %d turns and the error '%s'", st.session, st.turns, st.error);
	return nil;
}

models(nil: ref Session): string
{
	(l, err) := b.models();
	if(err != nil)
		return err;
	for(m := l; m != nil; m = tl m)
		if(hd m == first.model)
			return nil;
	return sys->sprint("%s is not among the %d", first.model, len l);
}

wrongpath(nil: ref Session): string
{
	if(echo)
		return SKIP+"echo loads any path";
	err := b.loadmodel("/nowhere/no.gguf", nil);
	if(!contains(err, "permission denied") && (seen := errsays(err, "/nowhere/no.gguf")) != nil)
		return seen;
	return b.ping();
}

nopath(nil: ref Session): string
{
	return errsays(b.loadmodel(nil, nil), "model");
}

badoption(nil: ref Session): string
{
	if((seen := errsays(b.loadmodel(first.path, ("n_ctx", "many") :: nil), "n_ctx")) != nil)
		return seen;
	if((seen = errsays(b.loadmodel(first.path, ("nosuch", "1") :: nil), "nosuch")) != nil)
		return seen;
	return b.ping();
}

#
# questions
#

infer(nil: ref Session): string
{
	(text, err) := b.infer("What is a file server?", brief());
	return answers(text, err, "What is a file server?");
}

inferparams(nil: ref Session): string
{
	params := ("temperature", "0") :: ("max_tokens", "3") :: nil;
	(text, err) := b.infer("one two three four five six", params);
	if(err != nil || !echo)
		return answers(text, err, nil);
	if((seen := same(text, "one two three")) != nil)
		return seen;
	(text, err) = b.infer("one two three four five six", nil);
	return answers(text, err, "one two three four five six");
}

badparam(nil: ref Session): string
{
	for(l := ("temprature", "1") :: ("temperature", "hot") :: ("top_p", "7") :: nil; l != nil; l = tl l){
		(nil, err) := b.infer("hello", hd l :: nil);
		if((seen := errsays(err, (hd l).t0)) != nil)
			return sys->sprint("%s %s: %s", (hd l).t0, (hd l).t1, seen);
	}
	return nil;
}

emptyprompt(nil: ref Session): string
{
	(text, err) := b.infer("", nil);
	if(text != nil)
		return sys->sprint("the answer '%s'", text);
	return errsays(err, "empty");
}

twice(nil: ref Session): string
{
	(one, err) := b.infer("What is a file?", brief());
	if(err != nil)
		return err;
	two: string;
	(two, err) = b.infer("What is a file?", brief());
	if(err != nil)
		return err;
	return same(two, one);
}

maxtokens(s: ref Session): string
{
	err := s.set(("max_tokens", "3") :: nil);
	if(err == nil)
		(nil, err) = s.ask("Name the days of the week.");
	if(err != nil)
		return err;
	u: ref Usage;
	(u, err) = s.usage();
	if(u == nil)
		return err;
	if(u.completion < 1 || u.completion > 3)
		return sys->sprint("%d tokens", u.completion);
	if(u.completion == 3)
		return same(u.finish, "length");
	return nil;
}

greek(s: ref Session): string
{
	return through(s, GREEK);
}

lines(s: ref Session): string
{
	return through(s, "one line\n\ntwo: \"quoted\" \\n\n\tthree");
}

bars(s: ref Session): string
{
	return through(s, "if(a || b) || c");
}

longprompt(s: ref Session): string
{
	if(first.nctx < 8192)
		return SKIP + sys->sprint("the context holds %d tokens", first.nctx);
	return through(s, longtext());
}

busy(s: ref Session): string
{
	(c, nil, err) := startlong(s);
	if(err != nil)
		return err;
	(text, e) := s.ask("And you?");
	s.cancel();
	drain(c);
	if(e == nil && text != nil)
		return SKIP+"the answer was too quick";
	return errsays(e, "busy");
}

#
# streams, and many at once
#

stream(s: ref Session): string
{
	(text, err) := b.infer(GREEK, brief());
	if((seen := answers(text, err, GREEK)) != nil)
		return "infer: " + seen;
	streamed: string;
	(streamed, err) = drain(s.stream(GREEK));
	if(err != nil)
		return err;
	return same(streamed, text);
}

bridgestream(s: ref Session): string
{
	(text, err) := s.ask("What is a stream?");
	if(err != nil)
		return "ask: " + err;
	streamed: string;
	(streamed, err) = drain(b.stream("What is a stream?", brief()));
	if(err != nil)
		return err;
	return same(streamed, text);
}

longstream(s: ref Session): string
{
	if(!echo)
		return SKIP+"of a model it would take long";
	(text, err) := drain(s.stream(longtext()));
	return answers(text, err, longtext());
}

emptystream(s: ref Session): string
{
	(text, err) := drain(s.stream(""));
	if(text != nil)
		return sys->sprint("the answer '%s'", text);
	if((seen := errsays(err, "empty")) != nil)
		return seen;
	(nil, err) = drain(b.stream("hello", ("temprature", "1") :: nil));
	return errsays(err, "temprature");
}

cancel(s: ref Session): string
{
	(c, nil, err) := startlong(s);
	if(err != nil)
		return err;
	t0 := sys->millisec();
	if((err = s.cancel()) != nil)
		return err;
	(nil, err) = drain(c);
	if(err != nil)
		return "the stream: " + err;
	ms := sys->millisec()-t0;
	u: ref Usage;
	(u, err) = s.usage();
	if(u == nil)
		return err;
	if(u.finish == "cancelled" && ms > 5000)
		return sys->sprint("it took %d ms", ms);
	(text, e) := s.ask("And now?");
	if((seen := answers(text, e, "And now?")) != nil)
		return "afterwards: " + seen;
	if(u.finish != "cancelled")
		return SKIP+"the answer was too quick";
	return nil;
}

nothingtocancel(s: ref Session): string
{
	return s.cancel();
}

cancelcommand(s: ref Session): string
{
	c := chan[1] of (string, string);
	spawn longcommand(s, c);
	for(;;) alt {
	<-c =>
		return SKIP+"the answer was too quick";
	* =>
		(st, err) := s.status();
		if(st == nil)
			return err;
		if(st.session != "generating")
			continue;
		if((err = s.cancel()) != nil)
			return err;
		(nil, err) = <-c;
		if(err == nil)
			return SKIP+"the answer was too quick";
		return errsays(err, "cancelled");
	}
}

longcommand(s: ref Session, c: chan of (string, string))
{
	cmd := "INFER max_tokens=5000 Count from one to a thousand, in words.";
	if(echo)
		for(i := 0; i < 4000; i++)
			cmd += " " + string i;
	c <-= s.command(cmd);
}

multi(nil: ref Session): string
{
	return askmulti(array[] of {"the first question", "if(a || b)", "two\nlines", GREEK});
}

multi40(nil: ref Session): string
{
	prompts := array[40] of string;
	for(i := 0; i < len prompts; i++)
		prompts[i] = sys->sprint("question number %d", i+1);
	return askmulti(prompts);
}

askmulti(prompts: array of string): string
{
	(texts, err) := b.multi(prompts, brief());
	if(err != nil)
		return err;
	if((seen := sameint("answers", len texts, len prompts)) != nil)
		return seen;
	for(i := 0; i < len prompts; i++)
		if((seen = answers(texts[i], nil, prompts[i])) != nil)
			return sys->sprint("answer %d: %s", i+1, seen);
	return nil;
}

multibad(nil: ref Session): string
{
	prompts := array[] of {"one", "", "three"};
	(texts, err) := b.multi(prompts, brief());
	if((seen := errsays(err, "empty")) != nil)
		return seen;
	if((seen = sameint("answers", len texts, len prompts)) != nil)
		return seen;
	if((seen = answers(texts[0], nil, "one")) == nil)
		seen = answers(texts[2], nil, "three");
	return seen;
}

multinone(nil: ref Session): string
{
	(texts, err) := b.multi(nil, nil);
	if(err != nil)
		return err;
	return sameint("answers", len texts, 0);
}

#
# sessions
#

# two questions, the second of which has to see the first
twoturns(s: ref Session): string
{
	for(l := "My name is Ken." :: "What is my name?" :: nil; l != nil; l = tl l){
		(text, err) := s.ask(hd l);
		if((seen := answers(text, err, hd l)) != nil)
			return seen;
	}
	return nil;
}

turns(s: ref Session, n: int): string
{
	(a, err) := said(s);
	if(err != nil)
		return err;
	if((seen := sameint("messages in context", len a, 2*n)) != nil)
		return seen;
	for(i := 0; i < len a; i++)
		if((seen = same(a[i].t0, (array[] of {"user", "assistant"})[i%2])) != nil)
			return seen;
	st: ref Status;
	(st, err) = s.status();
	if(st == nil)
		return err;
	return sameint("turns", st.turns, n);
}

conversation(s: ref Session): string
{
	(nil, err) := s.ask("My name is Ken.");
	if(err != nil)
		return err;
	u, v: ref Usage;
	(u, err) = s.usage();
	if(u == nil)
		return err;
	(nil, err) = s.ask("What is my name?");
	if(err != nil)
		return err;
	(v, err) = s.usage();
	if(v == nil)
		return err;
	if(v.prompt <= u.prompt)
		return sys->sprint("%d tokens in the first prompt, %d in the second", u.prompt, v.prompt);
	return turns(s, 2);
}

reset(s: ref Session): string
{
	if((seen := twoturns(s)) != nil)
		return seen;
	if((err := s.reset()) != nil)
		return err;
	if((seen = turns(s, 0)) != nil)
		return seen;
	(text, e) := s.ask("Who am I?");
	if((seen = answers(text, e, "Who am I?")) != nil)
		return seen;
	return turns(s, 1);
}

resetkeeps(s: ref Session): string
{
	(before, err) := s.get("params");
	if(err != nil)
		return err;
	if((err = s.put("system", "Be brief.")) != nil || (err = s.reset()) != nil)
		return err;
	after: string;
	(after, err) = s.get("params");
	if(err != nil)
		return err;
	if((seen := same(after, before)) != nil)
		return seen;
	(after, err) = s.get("system");
	if(err != nil)
		return err;
	return same(after, "Be brief.\n");
}

forkhas(s: ref Session): string
{
	if((seen := twoturns(s)) != nil)
		return seen;
	(f, err) := s.fork();
	if(f == nil)
		return err;
	before, after: string;
	(before, err) = s.get("context");
	if(err == nil)
		(after, err) = f.get("context");
	f.close();
	if(err != nil)
		return err;
	return same(after, before);
}

forkalone(s: ref Session): string
{
	if((seen := twoturns(s)) != nil)
		return seen;
	(f, err) := s.fork();
	if(f == nil)
		return err;
	(text, e) := f.ask("And what else?");
	if((seen = answers(text, e, "And what else?")) == nil
	&& (seen = turns(f, 3)) == nil
	&& (seen = turns(s, 2)) == nil
	&& (seen = s.reset()) == nil)
		seen = turns(f, 3);
	f.close();
	return seen;
}

system(s: ref Session): string
{
	text := "Be brief.\n" + GREEK + "\n";
	for(l := text :: text[0:len text-1] :: "" :: nil; l != nil; l = tl l){
		if(hd l == "")
			text = nil;
		if((err := s.put("system", hd l)) != nil)
			return err;
		after: string;
		(after, err) = s.get("system");
		if(err != nil)
			return err;
		if((seen := same(after, text)) != nil)
			return seen;
	}
	return nil;
}

settings(s: ref Session): string
{
	if((err := s.set(("top_k", "7") :: nil)) != nil || (err = s.set(("min_p", "0.25") :: nil)) != nil)
		return err;
	text: string;
	(text, err) = s.get("params");
	if(err != nil)
		return err;
	for(l := "top_k 7\n" :: "min_p 0.25\n" :: nil; l != nil; l = tl l)
		if(!contains(text, hd l))
			return text;
	if((seen := errsays(s.set(("top_k", "8") :: ("min_p", "lots") :: nil), "min_p")) != nil)
		return seen;
	after: string;
	(after, err) = s.get("params");
	if(err != nil)
		return err;
	return same(after, text);
}

savecontext(s: ref Session): string
{
	if((seen := twoturns(s)) != nil)
		return seen;
	(saved, err) := s.get("context");
	if(err != nil || (err = s.reset()) != nil || (err = s.put("context", saved)) != nil)
		return err;
	after: string;
	(after, err) = s.get("context");
	if(err != nil)
		return err;
	if((seen = same(after, saved)) != nil)
		return seen;
	(text, e) := s.ask("And what else?");
	if((seen = answers(text, e, "And what else?")) != nil)
		return seen;
	return turns(s, 3);
}

badcontext(s: ref Session): string
{
	for(l := "no JSON\n" :: "no JSON" :: "{\"role\":\"user\"}" :: nil; l != nil; l = tl l)
		if(s.put("context", hd l) == nil)
			return sys->sprint("no error for '%s'", hd l);
	return nil;
}

usage(s: ref Session): string
{
	prompt := completion := 0;
	for(i := 0; i < 3; i++){
		(nil, err) := s.ask("What comes after " + string i + "?");
		if(err != nil)
			return err;
		u: ref Usage;
		(u, err) = s.usage();
		if(u == nil)
			return err;
		if(u.prompt <= 0 || u.completion <= 0 || u.finish == nil || u.prefill < 0.0 || u.decode < 0.0)
			return sys->sprint("%d and %d tokens, '%s', %g s and %g s", u.prompt,
				u.completion, u.finish, u.prefill, u.decode);
		prompt += u.prompt;
		completion += u.completion;
	}
	(text, err) := s.get("usage");
	if(err != nil)
		return err;
	v: ref JValue;
	(v, err) = json->readjson(bufio->sopen(text));
	if(v == nil)
		return err;
	total := v.get("total");
	if(total == nil)
		return "no total";
	for(l := ("requests", 3) :: ("prompt_tokens", prompt) :: ("completion_tokens", completion) :: nil; l != nil; l = tl l){
		(name, n) := hd l;
		if((seen := sameint(name, int member(total, name), n)) != nil)
			return seen;
	}
	return nil;
}

two(nil: ref Session): string
{
	return atonce(2);
}

ten(nil: ref Session): string
{
	return atonce(10);
}

# Each has its own question and answer, all the others' notwithstanding.
atonce(n: int): string
{
	c := chan of string;
	for(i := 0; i < n; i++)
		spawn oneof(i, c);
	seen: string;
	for(i = 0; i < n; i++)
		if((one := <-c) != nil)
			seen = one;
	return seen;
}

oneof(i: int, c: chan of string)
{
	(s, err) := b.session();
	if(s == nil){
		c <-= err;
		return;
	}
	if((seen := s.set(brief())) == nil
	&& (seen = through(s, sys->sprint("I am number %d.", i))) != nil)
		seen = sys->sprint("session %d: %s", i, seen);
	s.close();
	c <-= seen;
}

closedgone(s: ref Session): string
{
	if(sys->stat(s.dir).t0 < 0)
		return sys->sprint("%s: %r", s.dir);
	if((err := s.close()) != nil)
		return err;
	if(sys->stat(s.dir).t0 >= 0)
		return s.dir + " is still there";
	return nil;
}

closederror(s: ref Session): string
{
	if((err := s.close()) != nil)
		return err;
	(nil, err) = s.ask("Are you there?");
	if((seen := errsays(err, "closed")) != nil)
		return "ask: " + seen;
	(nil, err) = drain(s.stream("Are you there?"));
	if((seen = errsays(err, "closed")) != nil)
		return "stream: " + seen;
	(nil, err) = s.command("PING");
	if((seen = errsays(err, "closed")) != nil)
		return "command: " + seen;
	if((seen = errsays(s.close(), "closed")) != nil)
		return "close: " + seen;
	(nil, err) = s.fork();
	if((seen = errsays(err, "closed")) != nil)
		return "fork: " + seen;
	return nil;
}

unknown(s: ref Session): string
{
	(nil, err) := s.command("FROB "+GREEK);
	if((seen := errsays(err, "FROB")) != nil)
		return seen;
	text: string;
	(text, err) = s.command("PING");
	if(err != nil)
		return "afterwards: " + err;
	return same(text, "pong");
}

longerror(s: ref Session): string
{
	name := "";
	for(i := 0; i < 30; i++)
		name += "nosuch-";
	name += "end";
	(nil, err) := s.command("FROB"+name);
	return errsays(err, name);
}

newline(s: ref Session): string
{
	(nil, err) := s.command("PING\nRESET");
	if((seen := errsays(err, "line")) != nil)
		return seen;
	return errsays(b.loadmodel("no\nsuch", nil), "line");
}

#
# bridges and pools
#

twobridges(nil: ref Session): string
{
	if(isdir())
		return SKIP+"a directory is mounted already";
	(x, err) := Bridge.connect(addr, nil);
	if(x == nil)
		return err;
	seen: string;
	if(x.dir == b.dir)
		seen = "both at " + b.dir;
	for(l := b :: x :: b :: nil; l != nil && seen == nil; l = tl l){
		(text, e) := (hd l).infer("Which one?", brief());
		seen = answers(text, e, "Which one?");
	}
	err = x.disconnect();
	if(seen != nil)
		return seen;
	if(err != nil)
		return err;
	if(sys->stat(x.dir+"/clone").t0 >= 0)
		return x.dir + " is still mounted";
	if((seen = errsays(x.ping(), "")) != nil)
		return "ping of what was disconnected: " + seen;
	return b.ping();
}

connectrace(nil: ref Session): string
{
	if(isdir())
		return SKIP+"a directory is mounted already";
	c := chan of (ref Bridge, string);
	for(i := 0; i < 3; i++)
		spawn connector(c);
	dirs: list of string;
	seen: string;
	l: list of ref Bridge;
	for(i = 0; i < 3; i++){
		(x, err) := <-c;
		if(x == nil){
			seen = err;
			continue;
		}
		l = x :: l;
		for(d := dirs; d != nil; d = tl d)
			if(hd d == x.dir)
				seen = "two at " + x.dir;
		dirs = x.dir :: dirs;
	}
	for(; l != nil; l = tl l)
		(hd l).disconnect();
	return seen;
}

connector(c: chan of (ref Bridge, string))
{
	c <-= Bridge.connect(addr, nil);
}

spare(nil: ref Session): string
{
	(before, nil) := sys->stat(Llambo->DIR+"0");
	if(before < 0)
		return SKIP+"no mount point was needed";
	for(i := 0; i < 20; i++){
		(nil, err) := Bridge.connect("unix!/nowhere/sock", nil);
		if(err == nil)
			return "no error";
	}
	if(sys->stat(Llambo->DIR+"20").t0 >= 0)
		return Llambo->DIR+"20 was made";
	return nil;
}

poolhalf(nil: ref Session): string
{
	(p, err) := Pool.new("unix!/nowhere/sock" :: addr :: nil);
	if(p == nil)
		return err;
	seen: string;
	for(i := 0; i < 3 && seen == nil; i++){
		prompt := sys->sprint("question %d", i);
		(text, e) := p.infer(prompt, brief());
		seen = answers(text, e, prompt);
	}
	p.disconnect();
	if(seen == nil)
		seen = b.ping();
	return seen;
}

pooldead(nil: ref Session): string
{
	(p, err) := Pool.new("unix!/nowhere/sock" :: "tcp!127.0.0.1!1" :: nil);
	if(err == nil)
		return "no error";
	if(p != nil){
		(nil, err) = p.infer("Is anybody there?", nil);
		p.disconnect();
	}
	if(contains(err, "/nowhere/sock"))
		return nil;
	return errsays(err, "127.0.0.1!1");
}

untouched(nil: ref Session): string
{
	(now, err) := rootstate();
	if(err != nil)
		return err;
	return same(now, root);
}

free(nil: ref Session): string
{
	if(model == nil && !echo)
		return SKIP+"only with -m, as others may use the model";
	if((err := b.loadmodel(first.path, nil)) != nil)
		return SKIP+"it could not be loaded again: " + err;
	if((err = b.free(first.model)) != nil)
		return err;
	(nil, err) = b.infer("Is anybody there?", brief());
	seen := errsays(err, "no model");
	if((err = b.loadmodel(first.path, nil)) != nil)
		return "loading again: " + err;
	if(seen != nil)
		return seen;
	(text, e) := b.infer("Is anybody there?", brief());
	return answers(text, e, "Is anybody there?");
}

disconnect(nil: ref Session): string
{
	if(isdir())
		return SKIP+"somebody else mounted it";
	dir := b.dir;
	if((err := b.disconnect()) != nil)
		return err;
	fd := sys->open(dir, Sys->OREAD);
	if(fd == nil)
		return sys->sprint("%s: %r", dir);
	(n, nil) := sys->dirread(fd);
	if((seen := sameint("files", n, 0)) != nil)
		return seen;
	if((err = b.disconnect()) != nil)
		return "once more: " + err;
	return errsays(b.ping(), "");
}
