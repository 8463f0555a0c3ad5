implement Workers;

#
# Runs workers that ask one question at once, each in a session of its own,
# and says how fast the answers came.
#

include "sys.m";
	sys: Sys;

include "draw.m";

include "arg.m";

include "string.m";
	str: String;

include "llambo-ffi.m";
	llambo: Llambo;
	Bridge, Session, Pool: import llambo;

Workers: module
{
	init:	fn(nil: ref Draw->Context, args: list of string);
};

PATIENCE:	con 2000;	# ms for the bridges to be unmounted at the end

Job: adt {
	pool:	ref Pool;
	model:	string;
	prompt:	string;
	system:	string;
	params:	list of (string, string);
};

Result: adt {
	worker:	int;
	text:	string;
	err:	string;
	first:	int;		# ms from the start to the first piece
	all:	int;		# and to the end
	tokens:	int;
};

init(nil: ref Draw->Context, args: list of string)
{
	sys = load Sys Sys->PATH;
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
	arg->setusage("llambo [-v] [-a addr] ... [-n workers] [-m model] [-s system] [-p name value] ... prompt");
	addrs: list of string;
	n := 1;
	verbose := 0;
	job := ref Job;
	while((c := arg->opt()) != 0)
		case c {
		'a' =>
			addrs = arg->earg() :: addrs;
		'm' =>
			job.model = arg->earg();
		'n' =>
			s := arg->earg();
			(n, s) = str->toint(s, 10);
			if(n < 1 || s != nil)
				arg->usage();
		'p' =>
			name := arg->earg();
			job.params = (name, arg->earg()) :: job.params;
		's' =>
			job.system = arg->earg();
		'v' =>
			verbose = 1;
		* =>
			arg->usage();
		}
	args = arg->argv();
	if(args == nil)
		arg->usage();
	job.prompt = join(args);
	job.params = reverse(job.params);
	if(addrs == nil)
		addrs = Llambo->DIR :: nil;

	sys->pctl(Sys->FORKNS|Sys->NEWPGRP, nil);
	(job.pool, err) = Pool.new(addrs);
	failed := 0;
	if(err == nil){
		missing(job.pool);
		failed = run(job, n, verbose);
	}
	left := chan[2] of int;
	spawn leave(job.pool, left);
	spawn timer(PATIENCE, left);
	<-left;
	killgrp();	# what waits for a bridge that hangs
	if(err != nil)
		fail("connect", err);
	if(failed != 0)
		raise sys->sprint("fail:%d of %d workers failed", failed, n);
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

join(l: list of string): string
{
	s := hd l;
	while((l = tl l) != nil)
		s += " " + hd l;
	return s;
}

reverse(l: list of (string, string)): list of (string, string)
{
	r: list of (string, string);
	for(; l != nil; l = tl l)
		r = hd l :: r;
	return r;
}

missing(p: ref Pool)
{
	for(i := 0; i < len p.members; i++){
		m := p.members[i];
		if(m.asked || m.b == nil)
			complain(m.addr + ": " + m.err);
	}
}

complain(msg: string)
{
	sys->fprint(sys->fildes(2), "llambo: %s\n", msg);
}

leave(p: ref Pool, left: chan of int)
{
	p.disconnect();
	left <-= 1;
}

timer(ms: int, left: chan of int)
{
	sys->sleep(ms);
	left <-= 1;
}

killgrp()
{
	fd := sys->open("#p/" + string sys->pctl(0, nil) + "/ctl", Sys->OWRITE);
	if(fd != nil)
		sys->fprint(fd, "killgrp");
}

# start them together, gather what they say, and print it
run(job: ref Job, n, verbose: int): int
{
	ready := chan of int;
	go := chan of int;
	done := chan[n] of ref Result;	# nobody may be left to receive
	for(i := 0; i < n; i++)
		spawn worker(i + 1, job, ready, go, done);
	for(i = 0; i < n; i++)
		<-ready;
	start := sys->millisec();
	for(i = 0; i < n; i++)
		go <-= start;
	failed := tokens := 0;
	firsts: list of int;
	errs: list of (string, int);
	for(i = 0; i < n; i++){
		r := <-done;
		tokens += r.tokens;
		if(r.first >= 0)
			firsts = insert(r.first, firsts);
		if(verbose)
			report(r);
		if(r.err != nil){
			failed++;
			errs = count(r.err, errs);
		}
	}
	for(; errs != nil; errs = tl errs)
		complain(sys->sprint("%s: %s", workers((hd errs).t1), (hd errs).t0));
	elapsed := sys->millisec() - start;
	if(firsts != nil)
		summary(n, failed, tokens, elapsed, firsts);
	return failed;
}

# how often was each error met?
count(err: string, l: list of (string, int)): list of (string, int)
{
	if(l == nil)
		return (err, 1) :: nil;
	(e, n) := hd l;
	if(e == err)
		return (e, n + 1) :: tl l;
	return hd l :: count(err, tl l);
}

workers(n: int): string
{
	if(n == 1)
		return "1 worker";
	return sys->sprint("%d workers", n);
}

worker(n: int, job: ref Job, ready, go: chan of int, done: chan of ref Result)
{
	(b, s, err) := begin(job);
	ready <-= 1;
	start := <-go;
	r := ref Result(n, nil, err, -1, 0, 0);
	while(s != nil){
		ask(job, s, r, start);
		s.close();
		job.pool.release(b, r.err);
		if(r.err == nil || !llambo->gone(r.err))
			break;
		# its bridge is gone: all of it again with another
		complain(sys->sprint("worker %d: %s: %s: asking again", n, b.addr, r.err));
		r.text = nil;
		(b, s, r.err) = begin(job);
	}
	done <-= r;
}

# a session on the least busy bridge
begin(job: ref Job): (ref Bridge, ref Session, string)
{
	for(;;){
		(b, err) := job.pool.take();
		if(b == nil)
			return (nil, nil, err);
		s: ref Session;
		(s, err) = b.session();
		if(s != nil && job.model != nil)
			err = s.usemodel(job.model);
		if(s != nil && err == nil)
			err = s.set(job.params);
		if(s != nil && err == nil && job.system != nil)
			err = s.put("system", job.system);
		if(err == nil)
			return (b, s, nil);
		if(s != nil)
			s.close();
		job.pool.release(b, err);
		if(!llambo->gone(err))
			return (nil, nil, err);
	}
}

ask(job: ref Job, s: ref Session, r: ref Result, start: int)
{
	c := s.stream(job.prompt);
	for(;;){
		(piece, err) := <-c;
		now := sys->millisec() - start;
		r.all = now;
		r.err = err;
		if(piece == nil)
			break;
		if(r.first < 0)
			r.first = now;
		r.text += piece;
	}
	(u, nil) := s.usage();
	if(u != nil)
		r.tokens = u.completion;
}

insert(n: int, l: list of int): list of int
{
	if(l == nil || n <= hd l)
		return n :: l;
	return hd l :: insert(n, tl l);
}

report(r: ref Result)
{
	sys->print("worker %d: %d tokens in %s s", r.worker, r.tokens, seconds(r.all));
	if(r.first >= 0)
		sys->print(", the first after %s s", seconds(r.first));
	a := array of byte (":\n" + r.text + "\n\n");
	sys->write(sys->fildes(1), a, len a);
}

summary(n, failed, tokens, elapsed: int, firsts: list of int)
{
	who := workers(n);
	if(failed != 0)
		who += sys->sprint(" (%d failed)", failed);
	if(elapsed == 0)
		elapsed = 1;
	sys->print("%s: %d tokens in %s s, %.1f tokens/s; first token after %s s (%s to %s)\n",
		who, tokens, seconds(elapsed), 1000.0 * real tokens / real elapsed,
		seconds(nth(firsts, len firsts / 2)), seconds(hd firsts), seconds(nth(firsts, len firsts - 1)));
}

nth(l: list of int, n: int): int
{
	while(n-- > 0)
		l = tl l;
	return hd l;
}

seconds(ms: int): string
{
	return sys->sprint("%.2f", real ms / 1000.0);
}
