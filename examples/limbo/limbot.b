implement Limbot;

#
# A conversation in the terminal.
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
	Bridge, Session: import llambo;

Limbot: module
{
	init:	fn(nil: ref Draw->Context, args: list of string);
};

Chat: adt {
	addr:	string;
	model:	string;		# nil: the bridge's
	system:	string;
	params:	list of (string, string);	# from the last to the first
	b:	ref Bridge;
	s:	ref Session;
	context:	string;	# the conversation, to go on with when the bridge has been started anew
	lines:	chan of string;	# typed; nil at the end
	typed:	list of string;	# while an answer came
	interactive:	int;
};

PATIENCE:	con 2000;	# ms for the session to be closed at the end

stdout: ref Sys->FD;
stderr: ref Sys->FD;

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

	arg->init(args);
	arg->setusage("limbot [-a addr] [-m model] [-s system] [-p name value] ... [question]");
	ch := ref Chat;
	ch.addr = Llambo->DIR;
	while((c := arg->opt()) != 0)
		case c {
		'a' =>
			ch.addr = arg->earg();
		'm' =>
			ch.model = arg->earg();
		'p' =>
			name := arg->earg();
			ch.params = (name, arg->earg()) :: ch.params;
		's' =>
			ch.system = arg->earg();
		* =>
			arg->usage();
		}
	args = arg->argv();

	sys->pctl(Sys->FORKNS|Sys->NEWPGRP, nil);
	if((err = begin(ch)) != nil)
		finish(ch, "connect", err);
	if(args != nil){
		if((err = answer(ch, join(args))) != nil)
			finish(ch, "answer", err);
	}else
		talk(ch);
	finish(ch, nil, nil);
}

nomod(path: string)
{
	fail("load", sys->sprint("can't load %s: %r", path));
}

fail(status, msg: string)
{
	complain(msg);
	raise "fail:" + status;
}

complain(msg: string)
{
	sys->fprint(stderr, "limbot: %s\n", msg);
}

# A bridge that hangs does not keep limbot from ending.
finish(ch: ref Chat, status, msg: string)
{
	if(msg != nil)
		complain(msg);
	done := chan[2] of int;
	spawn leave(ch, done);
	spawn timer(PATIENCE, done);
	<-done;
	# the process that reads the keyboard, too
	fd := sys->open("#p/" + string sys->pctl(0, nil) + "/ctl", Sys->OWRITE);
	if(fd != nil)
		sys->fprint(fd, "killgrp");
	if(status != nil)
		raise "fail:" + status;
}

leave(ch: ref Chat, done: chan of int)
{
	if(ch.s != nil)
		ch.s.close();
	if(ch.b != nil)
		ch.b.disconnect();
	done <-= 1;
}

timer(ms: int, done: chan of int)
{
	sys->sleep(ms);
	done <-= 1;
}

join(l: list of string): string
{
	s := hd l;
	while((l = tl l) != nil)
		s += " " + hd l;
	return s;
}

begin(ch: ref Chat): string
{
	err: string;
	if(ch.b != nil)
		ch.b.disconnect();
	ch.s = nil;
	(ch.b, err) = Bridge.connect(ch.addr, nil);
	if(ch.b == nil)
		return err;
	s: ref Session;
	(s, err) = ch.b.session();
	if(s == nil)
		return err;
	if(ch.model != nil)
		err = s.usemodel(ch.model);
	if(err == nil)
		err = s.set(reverse(ch.params));
	if(err == nil && ch.system != nil)
		err = s.put("system", ch.system);
	if(err == nil && ch.context != nil)
		err = s.put("context", ch.context);
	if(err == nil)
		ch.s = s;
	else
		s.close();
	return err;
}

#
# reading
#

talk(ch: ref Chat)
{
	ch.lines = chan of string;
	ch.interactive = isconsole(sys->fildes(0));
	if(ch.interactive)
		greet(ch);
	spawn reader(ch.lines);
	while((line := nextline(ch)) != nil){
		err: string;
		if((line = trim(line)) == nil)
			continue;
		if(isexit(line))
			return;
		if(line[0] == '/')
			err = command(ch, line);
		else
			err = answer(ch, line);
		if(err != nil)
			complain(err);
	}
	if(ch.interactive)
		put("\n");
}

greet(ch: ref Chat)
{
	(st, nil) := ch.s.status();
	if(st != nil)
		sys->print("%s at %s; /help lists commands\n", name(st.model), ch.addr);
}

isexit(line: string): int
{
	case str->splitl(trim(line), " \t\n").t0 {
	"/exit" or "/quit" =>
		return 1;
	}
	return 0;
}

isconsole(fd: ref Sys->FD): int
{
	(ok, d) := sys->fstat(fd);
	(cok, cons) := sys->stat("/dev/cons");
	return ok >= 0 && cok >= 0 && d.dtype == cons.dtype && d.qid.path == cons.qid.path;
}

# with their newlines; one that ends in \ goes on with the next
reader(lines: chan of string)
{
	in := bufio->fopen(sys->fildes(0), Bufio->OREAD);
	text: string;
	while((line := in.gets('\n')) != nil){
		text += line;
		n := len text;
		if(n > 1 && text[n-2:] == "\\\n"){
			text = text[0:n-2] + "\n";
			continue;
		}
		lines <-= text;
		if(isexit(text))
			return;	# what is typed behind it is not for limbot
		text = nil;
	}
	if(text != nil)
		lines <-= text;
	lines <-= nil;
}

nextline(ch: ref Chat): string
{
	if(ch.typed != nil){
		line := hd ch.typed;
		ch.typed = tl ch.typed;
		if(ch.interactive && line != nil)
			put("> " + line);	# it stood in the middle of an answer
		return line;
	}
	if(ch.interactive)
		sys->print("> ");
	return <-ch.lines;
}

trim(s: string): string
{
	s = str->drop(s, " \t\n");
	for(n := len s; n > 0 && str->in(s[n-1], " \t\n"); n--)
		;
	return s[0:n];
}

reverse(l: list of (string, string)): list of (string, string)
{
	r: list of (string, string);
	for(; l != nil; l = tl l)
		r = hd l :: r;
	return r;
}

#
# answering
#

answer(ch: ref Chat, question: string): string
{
	if(ch.s == nil && (err := begin(ch)) != nil)
		return err;
	err = stream(ch, question);
	if(err == nil)
		err = remember(ch);
	if(llambo->gone(err)){
		ch.s = nil;
		if(ch.lines != nil && ch.b.mounted)
			err += " (the next question tries to reach the bridge again)";
		else if(ch.lines != nil)
			err += " (/save keeps the conversation; then leave, and mountllm again)";
	}
	if(str->prefix("no model loaded", err))
		err = "no model loaded: /model NAME loads one, or option -m";
	return err;
}

# the conversation, and what has to be known of its last answer
remember(ch: ref Chat): string
{
	err: string;
	if(ch.lines != nil)
		(ch.context, err) = ch.s.get("context");
	if(err != nil)
		return err;
	u: ref Llambo->Usage;
	(u, err) = ch.s.usage();
	if(u != nil && u.finish == "length")
		complain(sys->sprint("cut after %s (the setting max_tokens)", tokens(u.completion)));
	if(u != nil && u.finish == "context")
		complain("cut: the context of the model is full (/reset empties it)");
	return err;
}

tokens(n: int): string
{
	if(n == 1)
		return "1 token";
	return sys->sprint("%d tokens", n);
}

stream(ch: ref Chat, question: string): string
{
	c := ch.s.stream(question);
	lines := ch.lines;
	if(lines == nil)
		lines = chan of string;	# one question: nobody types
	last: string;
	for(;;) alt {
	(piece, err) := <-c =>
		if(piece == nil){
			endline(last);
			return err;
		}
		put(piece);
		last = piece;
	line := <-lines =>
		if(line == nil)
			lines = chan of string;
		if(isexit(line) && ch.interactive){
			finish(ch, nil, nil);
			exit;
		}
		if(trim(line) == "/stop")
			spawn cancel(ch.s);	# a bridge that hangs does not answer
		else
			ch.typed = str->append(line, ch.typed);
	}
}

cancel(s: ref Session)
{
	s.cancel();
}

put(text: string)
{
	a := array of byte text;
	sys->write(stdout, a, len a);
}

endline(text: string)
{
	if(text != nil && text[len text - 1] != '\n')
		put("\n");
}

#
# commands
#

command(ch: ref Chat, line: string): string
{
	(verb, rest) := str->splitl(line, " \t\n");
	rest = trim(rest);
	if(verb == "/help")
		return help();
	if(verb == "/save" && ch.s == nil)
		return write(rest, ch.context);
	if(ch.s == nil && (err := begin(ch)) != nil)
		return err;
	case verb {
	"/status" =>
		err = status(ch);
	"/reset" =>
		if((err = ch.s.reset()) == nil)
			ch.context = nil;
	"/system" =>
		err = system(ch, rest);
	"/set" =>
		err = set(ch, rest);
	"/save" =>
		err = save(ch, rest);
	"/load" =>
		err = restore(ch, rest);
	"/model" =>
		err = model(ch, rest);
	"/stop" =>
		err = "nothing to stop";
	* =>
		err = verb + ": no such command; /help lists them";
	}
	if(llambo->gone(err))
		ch.s = nil;
	return err;
}

help(): string
{
	put("/help              this\n" +
		"/status            the bridge, the model, this conversation\n" +
		"/reset             forget the conversation\n" +
		"/system [text]     show or change the system prompt; \'\' is none\n" +
		"/set [name value]  show or change settings, such as temperature\n" +
		"/save file         keep the conversation\n" +
		"/load file         go on with one that was kept\n" +
		"/model [name]      list the models, or use one\n" +
		"/stop              during an answer: end it\n" +
		"/exit              or end of file\n" +
		"Anything else is a question.  A line that ends in \\ goes on in the next.\n");
	return nil;
}

status(ch: ref Chat): string
{
	(st, err) := ch.s.status();
	if(st == nil)
		return err;
	sys->print("bridge   %s, up %d s, %d answering, %d queued, at %s\n",
		st.version, int st.uptime, st.running, st.queued, ch.b.dir);
	sys->print("model    %s, %s, context of %d tokens\n", name(st.model), st.state, st.nctx);
	if(st.note != nil)
		put("         " + st.note + "\n");
	sys->print("session  %s, %s, questions: %d\n", ch.s.name, st.session, st.turns);
	if(st.error != nil)
		put("         " + st.error + "\n");
	u: ref Llambo->Usage;
	(u, err) = ch.s.usage();
	if(u != nil && u.completion > 0 && u.decode > 0.0)
		sys->print("last     %s, %.1f tokens/s; prompt of %d, %d of it reused\n",
			tokens(u.completion), real u.completion / u.decode, u.prompt, u.cached);
	return err;
}

name(s: string): string
{
	if(s == nil)
		return "none";
	return s;
}

system(ch: ref Chat, text: string): string
{
	if(text == nil){
		(now, err) := ch.s.get("system");
		put(now);
		endline(now);
		return err;
	}
	if(text == "\'\'")
		text = nil;
	err := ch.s.put("system", text);
	if(err == nil){
		ch.system = text;
		(ch.context, err) = ch.s.get("context");
	}
	return err;
}

set(ch: ref Chat, text: string): string
{
	if(text == nil){
		(now, err) := ch.s.get("params");
		put(now);
		return err;
	}
	# some are cleared by no value
	(name, value) := str->splitl(text, " \t=");
	if(value != nil)
		value = trim(value[1:]);
	param := (name, value) :: nil;
	err := ch.s.set(param);
	if(err == nil)
		ch.params = hd param :: ch.params;
	return err;
}

save(ch: ref Chat, file: string): string
{
	(text, err) := ch.s.get("context");
	if(llambo->gone(err)){
		ch.s = nil;
		return write(file, ch.context);
	}
	if(err != nil)
		return err;
	return write(file, text);
}

write(file, text: string): string
{
	if(file == nil)
		return "usage: /save file";
	fd := sys->create(file, Sys->OWRITE, 8r666);
	if(fd == nil)
		return sys->sprint("can't create %s: %r", file);
	a := array of byte text;
	if(sys->write(fd, a, len a) != len a)
		return sys->sprint("can't write %s: %r", file);
	return nil;
}

restore(ch: ref Chat, file: string): string
{
	if(file == nil)
		return "usage: /load file";
	fd := sys->open(file, Sys->OREAD);
	if(fd == nil)
		return sys->sprint("can't open %s: %r", file);
	in := bufio->fopen(fd, Bufio->OREAD);
	text: string;
	while((line := in.gets('\n')) != nil)
		text += line;
	err := ch.s.put("context", text);
	if(err == nil)
		(ch.context, err) = ch.s.get("context");
	if(err == nil)
		(ch.system, err) = ch.s.get("system");
	return err;
}

model(ch: ref Chat, want: string): string
{
	if(want != nil){
		err := ch.s.usemodel(want);
		if(err == nil)
			ch.model = want;
		return err;
	}
	(names, err) := ch.b.models();
	for(; names != nil; names = tl names)
		put(hd names + "\n");
	return err;
}
