implement Dish;

#
# A small shell over one or more bridges.
#
# A node is a bridge with a name, all of them are one pool.  Each command
# looks first who lives, which connects to those that did not:
# nothing here ends because a bridge did.
#

include "sys.m";
	sys: Sys;

include "draw.m";

include "arg.m";

include "bufio.m";
	bufio: Bufio;
	Iobuf: import bufio;

include "string.m";
	str: String;

include "llambo-ffi.m";
	llambo: Llambo;
	Bridge, Session, Status, Pool, Member: import llambo;

Dish: module
{
	init:	fn(nil: ref Draw->Context, args: list of string);
};

Node: adt {
	name:	string;
	addr:	string;
	m:	ref Member;
	s:	ref Session;	# the conversation; nil before its first question
	b:	ref Bridge;	# where that is
};

PATIENCE:	con 3000;	# ms for conversations to be closed at the end
ALL:	con "all";

Help:	con
	"nodes                                   who there is, and how busy\n" +
	"status [node]                           more of that\n" +
	"models [node]                           what is loaded or can be\n" +
	"load [node|all] model [name=value ...]  load a model\n" +
	"free [node|all] [model]                 unload one, or the one in use\n" +
	"infer [name=value ...] prompt           ask the node with the least to do\n" +
	"ask node prompt                         go on with the conversation with node\n" +
	"ask all prompt                          ask all that live, at once\n" +
	"reset [node|all]                        forget the conversation\n" +
	"help\n" +
	"exit\n" +
	"No node is all of them.  Arguments are quoted as in sh; a prompt is the rest of the line.\n";

nodes: list of ref Node;
pool: ref Pool;
failed := 0;
stdout, stderr: ref Sys->FD;

init(nil: ref Draw->Context, args: list of string)
{
	sys = load Sys Sys->PATH;
	stdout = sys->fildes(1);
	stderr = sys->fildes(2);
	bufio = load Bufio Bufio->PATH;
	if(bufio == nil)
		nomod(Bufio->PATH);
	str = load String String->PATH;
	if(str == nil)
		nomod(String->PATH);
	arg := load Arg Arg->PATH;
	if(arg == nil)
		nomod(Arg->PATH);
	llambo = load Llambo Llambo->PATH;
	if(llambo == nil)
		nomod(Llambo->PATH);
	if((err := llambo->init()) != nil)
		fail("load", err);

	commands: list of string;
	arg->init(args);
	arg->setusage("dish [-c command] [-n name addr] ... [addr ...]");
	while((c := arg->opt()) != 0)
		case c {
		'c' =>
			commands = str->append(arg->earg(), commands);
		'n' =>
			name := arg->earg();
			addnode(name, arg->earg());
		* =>
			arg->usage();
		}
	args = arg->argv();
	if(args == nil && nodes == nil)
		args = Llambo->DIR :: nil;
	for(; args != nil; args = tl args)
		addnode(unique(lastpart(hd args)), hd args);

	sys->pctl(Sys->FORKNS|Sys->NEWPGRP, nil);
	connect();
	if(commands != nil){
		for(; commands != nil; commands = tl commands)
			carryout(hd commands);
	}else{
		converse();
		failed = 0;
	}
	leave();
	if(failed)
		raise "fail:errors";
}

nomod(path: string)
{
	fail("load", sys->sprint("can't load %s: %r", path));
}

fail(status, msg: string)
{
	warn(msg);
	raise "fail:" + status;
}

warn(msg: string)
{
	sys->fprint(stderr, "dish: %s\n", msg);
}

complain(msg: string)
{
	warn(msg);
	failed = 1;
}

addnode(name, addr: string)
{
	if(name == ALL || name == nil || str->splitl(name, " \t\n'").t1 != nil)
		fail("usage", sys->sprint("%s: '%s' can't be the name of a node (-n gives it another)", addr, name));
	if(lookup(name) != nil)
		fail("usage", sys->sprint("%s: there is a node %s", addr, name));
	nodes = append(nodes, ref Node(name, addr, nil, nil, nil));
}

connect()
{
	addrs: list of string;
	for(l := nodes; l != nil; l = tl l)
		addrs = str->append((hd l).addr, addrs);
	(pool, nil) = Pool.new(addrs);
	i := 0;
	for(l = nodes; l != nil; l = tl l)
		(hd l).m = pool.members[i++];
}

lastpart(addr: string): string
{
	(nil, l) := sys->tokenize(addr, "/!");
	if(str->prefix("tcp!", addr) && len l == 3)
		return hd tl l;		# the host
	name: string;
	for(; l != nil; l = tl l)
		name = hd l;
	return name;
}

unique(base: string): string
{
	name := base;
	for(i := 2; lookup(name) != nil; i++)
		name = sys->sprint("%s-%d", base, i);
	return name;
}

lookup(name: string): ref Node
{
	for(l := nodes; l != nil; l = tl l)
		if((hd l).name == name)
			return hd l;
	return nil;
}

append(l: list of ref Node, n: ref Node): list of ref Node
{
	if(l == nil)
		return n :: nil;
	return hd l :: append(tl l, n);
}

#
# commands
#

converse()
{
	interactive := isconsole(sys->fildes(0));
	if(interactive)
		alive(nodes);
	in := bufio->fopen(sys->fildes(0), Bufio->OREAD);
	for(;;){
		if(interactive)
			sys->print("dish%% ");
		line := in.gets('\n');
		if(line == nil)
			break;
		if(!command(str->splitl(line, "\n").t0))
			return;
	}
	if(interactive)
		sys->print("\n");
}

isconsole(fd: ref Sys->FD): int
{
	(ok, d) := sys->fstat(fd);
	(cok, cons) := sys->stat("/dev/cons");
	return ok >= 0 && cok >= 0 && d.dtype == cons.dtype && d.qid.path == cons.qid.path;
}

carryout(lines: string)
{
	line: string;
	do{
		(line, lines) = str->splitl(lines, "\n");
		if(lines != nil)
			lines = lines[1:];
	}while(command(line) && lines != nil);
}

# 0 when it was the last one
command(line: string): int
{
	(verb, rest) := word(line);
	case verb {
	"" =>
		;
	"nodes" =>
		shownodes(rest);
	"status" =>
		showstatus(rest);
	"models" =>
		showmodels(rest);
	"load" =>
		loadmodel(rest);
	"free" =>
		freemodel(rest);
	"infer" =>
		infer(rest);
	"ask" =>
		ask(rest);
	"reset" =>
		reset(rest);
	"help" =>
		put(Help);
	"exit" =>
		return 0;
	* =>
		complain(sys->sprint("unknown command: %s (help lists them)", verb));
	}
	return 1;
}

# the first word of a line, and what is behind it
word(line: string): (string, string)
{
	line = str->drop(line, " \t");
	(first, rest) := str->splitl(line, " \t");
	return (first, str->drop(rest, " \t"));
}

usage(s: string)
{
	complain("usage: " + s);
}

# the nodes that an argument means
named(name: string): list of ref Node
{
	if(name == nil || name == ALL)
		return nodes;
	if((n := lookup(name)) != nil)
		return n :: nil;
	complain("unknown node: " + name);
	return nil;
}

# of the command's only argument, which can be left out
argnodes(cmd, rest: string): list of ref Node
{
	args := str->unquoted(rest);
	if(args == nil)
		return nodes;
	if(tl args != nil){
		usage(cmd);
		return nil;
	}
	return named(hd args);
}

shownodes(rest: string)
{
	if(rest != nil){
		usage("nodes");
		return;
	}
	pool.survey();
	rows := array[] of {"NAME", "STATE", "MODEL", "RUNNING", "QUEUED", "SESSIONS", "ADDRESS"} :: nil;
	for(l := nodes; l != nil; l = tl l){
		n := hd l;
		row := array[] of {n.name, "gone", "-", "-", "-", "-", n.addr};
		if((st := status(n)) != nil){
			row[1] = modelstate(st);
			if(st.model != nil)
				row[2] = st.model;
			row[3] = string st.running;
			row[4] = string st.queued;
			row[5] = string st.sessions;
		}
		rows = row :: rows;
	}
	table(rows, "lllrrrl");
	for(l = nodes; l != nil; l = tl l)
		if(status(hd l) == nil)
			put(sys->sprint("%s does not answer: %s\n", (hd l).name, (hd l).m.err));
}

modelstate(st: ref Status): string
{
	if(st.state == "loading")
		return sys->sprint("loading %d%%", int (100.0 * st.progress));
	return st.state;
}

# rows from the last to the first; columns to the left or right
table(rows: list of array of string, align: string)
{
	width := array[len align] of {* => 0};
	lines: list of array of string;
	for(; rows != nil; rows = tl rows){
		row := hd rows;
		lines = row :: lines;
		for(i := 0; i < len row; i++)
			if(len row[i] > width[i])
				width[i] = len row[i];
	}
	for(; lines != nil; lines = tl lines){
		row := hd lines;
		line := "";
		for(i := 0; i < len row - 1; i++)
			if(align[i] == 'r')
				line += sys->sprint("%*s  ", width[i], row[i]);
			else
				line += sys->sprint("%-*s  ", width[i], row[i]);
		put(line + row[i] + "\n");
	}
}

showstatus(rest: string)
{
	l := argnodes("status [node]", rest);
	pool.survey();
	for(; l != nil; l = tl l)
		put(describe(hd l));
}

describe(n: ref Node): string
{
	st := status(n);
	if(st == nil)
		return sys->sprint("%s\n\taddress  %s\n\tgone     %s\n", n.name, n.addr, n.m.err);
	s := sys->sprint("%s\n\taddress  %s", n.name, n.addr);
	if(n.m.b.dir != n.addr)
		s += ", mounted at " + n.m.b.dir;
	s += sys->sprint("\n\tbridge   version %s, up %s, %s, %s\n", st.version, duration(int st.uptime),
		count(st.connections, "connection"), count(st.sessions, "session"));
	s += "\tmodel    ";
	if(st.model != nil)
		s += sys->sprint("%s, engine %s, conversations of %d tokens, ", st.model, st.engine, st.nctx);
	s += modelstate(st);
	if(st.path != st.model)
		s += "\n\tfile     " + st.path;
	if(st.note != nil)
		s += "\n\tnote     " + st.note;
	s += sys->sprint("\n\tanswers  %d running, %d queued\n", st.running, st.queued);
	if(n.s != nil)
		s += describesession(n.s);
	return s;
}

describesession(s: ref Session): string
{
	(st, err) := s.status();
	if(st == nil)
		return sys->sprint("\tsession  %s: %s\n", s.name, err);
	text := sys->sprint("\tsession  %s, %s, %s\n", s.name, st.session, count(st.turns, "question"));
	if(st.error != nil)
		text += "\terror    " + st.error + "\n";
	return text;
}

count(n: int, what: string): string
{
	if(n == 1)
		return "1 " + what;
	return sys->sprint("%d %ss", n, what);
}

duration(s: int): string
{
	if(s < 60)
		return sys->sprint("%d s", s);
	if(s < 60*60)
		return sys->sprint("%d min", s/60);
	return sys->sprint("%d h %d min", s/(60*60), s/60%60);
}

showmodels(rest: string)
{
	rows: list of array of string;
	for(l := living(argnodes("models [node]", rest)); l != nil; l = tl l){
		(models, err) := (hd l).m.b.models();
		if(err != nil)
			problem(hd l, err);
		for(; models != nil; models = tl models)
			rows = array[] of {(hd l).name, hd models} :: rows;
	}
	table(rows, "ll");
}

loadmodel(rest: string)
{
	usestr := "load [node|all] model [name=value ...]";
	args := str->unquoted(rest);
	if(args == nil || setting(hd args)){
		usage(usestr);
		return;
	}
	l := nodes;
	if(tl args != nil && !setting(hd tl args)){
		if((l = named(hd args)) == nil)
			return;
		args = tl args;
	}
	opts: list of (string, string);
	for(more := tl args; more != nil; more = tl more){
		if(!setting(hd more)){
			usage(usestr);
			return;
		}
		opts = split(hd more) :: opts;
	}
	each(needed(l), "load", hd args, reverse(opts));
}

freemodel(rest: string)
{
	args := str->unquoted(rest);
	l := nodes;
	if(args != nil && (tl args != nil || hd args == ALL || lookup(hd args) != nil)){
		if((l = named(hd args)) == nil)
			return;
		args = tl args;
	}
	model: string;
	if(args != nil){
		if(tl args != nil){
			usage("free [node|all] [model]");
			return;
		}
		model = hd args;
	}
	each(needed(l), "free", model, nil);
}

reset(rest: string)
{
	talking: list of ref Node;
	for(l := argnodes("reset [node|all]", rest); l != nil; l = tl l)
		if((hd l).s != nil)
			talking = hd l :: talking;
	each(needed(talking), "reset", nil, nil);
}

infer(rest: string)
{
	params: list of (string, string);
	while(setting(rest)){
		p: string;
		(p, rest) = quotedword(rest);
		params = split(p) :: params;
	}
	if(rest == nil){
		usage("infer [name=value ...] prompt");
		return;
	}
	params = reverse(params);
	for(tries := 0; tries <= len pool.members; tries++){
		(b, err) := pool.take();
		if(b == nil)
			break;
		name := nameof(b);
		err = show(b.stream(rest, params));
		pool.release(b, err);
		if(!llambo->gone(err)){
			if(err != nil)
				complain(name + ": " + err);
			return;
		}
		warn(sys->sprint("%s: %s: asking again", name, err));
	}
	alive(nodes);
	complain("no node answers");
}

nameof(b: ref Bridge): string
{
	for(l := nodes; l != nil; l = tl l)
		if((hd l).m.b == b)
			return (hd l).name;
	return b.addr;
}

ask(rest: string)
{
	(name, prompt) := word(rest);
	if(prompt == nil){
		usage("ask node|all prompt");
		return;
	}
	if(name == ALL){
		each(living(nodes), "ask", prompt, nil);
		return;
	}
	for(l := needed(named(name)); l != nil; l = tl l){
		n := hd l;
		if((err := begin(n)) == nil)
			err = show(n.s.stream(prompt));
		if(err != nil)
			problem(n, err);
	}
}

begin(n: ref Node): string
{
	err: string;
	if(n.s == nil){
		n.b = n.m.b;
		(n.s, err) = n.b.session();
	}
	return err;
}

# an answer, piece by piece
show(c: chan of (string, string)): string
{
	last := '\n';
	for(;;){
		(piece, err) := <-c;
		if(piece == nil){
			if(last != '\n')
				put("\n");
			return err;
		}
		put(piece);
		last = piece[len piece - 1];
	}
}

# not sys->print: that is for what is short
put(text: string)
{
	a := array of byte text;
	sys->write(stdout, a, len a);
}

#
# name=value
#

# does it begin with one?
setting(s: string): int
{
	(name, value) := str->splitl(s, "^a-z_");
	return name != nil && value != nil && value[0] == '=';
}

split(s: string): (string, string)
{
	(name, value) := str->splitl(s, "=");
	return (name, value[1:]);
}

# as word, but quotes may hold blanks together
quotedword(line: string): (string, string)
{
	quoted := 0;
	for(i := 0; i < len line && (quoted || !str->in(line[i], " \t")); i++)
		if(line[i] == '\'')
			quoted = !quoted;
	return (hd str->unquoted(line[0:i]), str->drop(line[i:], " \t"));
}

reverse(l: list of (string, string)): list of (string, string)
{
	r: list of (string, string);
	for(; l != nil; l = tl l)
		r = hd l :: r;
	return r;
}

#
# several nodes at once
#

# of one that lives, as of the last survey
status(n: ref Node): ref Status
{
	if(n.m.asked || n.m.b == nil)
		return nil;
	return n.m.st;
}

# those that live; says which do not, and it is a failure if none does
living(l: list of ref Node): list of ref Node
{
	pool.survey();
	return alive(l);
}

# as of the last survey
alive(l: list of ref Node): list of ref Node
{
	these: list of ref Node;
	for(; l != nil; l = tl l){
		n := hd l;
		if(n.s != nil && n.b != n.m.b){
			warn(n.name + ": the conversation is lost");
			n.s = nil;
		}
		if(status(n) == nil)
			warn(sys->sprint("%s does not answer: %s", n.name, n.m.err));
		else
			these = append(these, n);
	}
	if(these == nil)
		failed = 1;
	return these;
}

# as living, but it is a failure if any does not
needed(l: list of ref Node): list of ref Node
{
	if(l == nil)
		return nil;
	these := living(l);
	if(len these < len l)
		failed = 1;
	return these;
}

problem(n: ref Node, err: string)
{
	complain(n.name + ": " + err);
	pool.lost(n.m.b, err);
}

# the same for each of them at once
each(l: list of ref Node, cmd, what: string, opts: list of (string, string))
{
	done := chan of (ref Node, string, string);
	n := len l;
	for(; l != nil; l = tl l)
		spawn tell(hd l, cmd, what, opts, done);
	for(; n > 0; n--){
		(node, text, err) := <-done;
		if(text != nil){
			if(text[len text - 1] != '\n')
				text[len text] = '\n';
			put(node.name + ":\n" + text);
		}
		if(err != nil)
			problem(node, err);
	}
}

tell(n: ref Node, cmd, what: string, opts: list of (string, string), done: chan of (ref Node, string, string))
{
	text, err: string;
	case cmd {
	"load" =>
		err = n.m.b.loadmodel(what, opts);
	"free" =>
		err = n.m.b.free(what);
	"reset" =>
		if(n.s != nil)
			err = n.s.reset();
	"ask" =>
		if((err = begin(n)) == nil)
			(text, err) = n.s.ask(what);
	}
	done <-= (n, text, err);
}

# A bridge that stopped does not keep dish from ending.
leave()
{
	n := 0;
	closed := chan[len nodes] of int;
	for(l := nodes; l != nil; l = tl l)
		if(status(hd l) != nil){
			spawn close(hd l, closed);
			n++;
		}
	alarm := chan[1] of int;
	spawn timer(alarm);
	while(n > 0) alt {
	<-closed =>
		n--;
	<-alarm =>
		n = 0;
	}
	fd := sys->open("#p/" + string sys->pctl(0, nil) + "/ctl", Sys->OWRITE);
	if(fd != nil)
		sys->fprint(fd, "killgrp");
}

close(n: ref Node, closed: chan of int)
{
	if(n.s != nil && n.b == n.m.b)
		n.s.close();
	n.m.b.disconnect();
	closed <-= 1;
}

timer(alarm: chan of int)
{
	sys->sleep(PATIENCE);
	alarm <-= 1;
}
