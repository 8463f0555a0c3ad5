#
# Llambo: llama.cpp as files.  See llambo-ffi(2), and llambo(4) for the files.
#
Llambo: module
{
	PATH:	con "/dis/lib/llambo-ffi.dis";

	DIR:	con "/n/llm";	# where mountllm(1) mounts a bridge

	Bridge: adt {
		addr:	string;		# as it was given to connect
		dir:	string;		# where its files are; nil when it is disconnected
		mounted:	int;	# by connect, not by somebody else

		connect:	fn(addr, dir: string): (ref Bridge, string);
		disconnect:	fn(b: self ref Bridge): string;

		ping:	fn(b: self ref Bridge): string;
		loadmodel:	fn(b: self ref Bridge, model: string, opts: list of (string, string)): string;
		free:	fn(b: self ref Bridge, model: string): string;
		status:	fn(b: self ref Bridge): (ref Status, string);
		models:	fn(b: self ref Bridge): (list of string, string);

		infer:	fn(b: self ref Bridge, prompt: string, params: list of (string, string)): (string, string);
		stream:	fn(b: self ref Bridge, prompt: string, params: list of (string, string)): chan of (string, string);
		multi:	fn(b: self ref Bridge, prompts: array of string, params: list of (string, string)): (array of string, string);
		session:	fn(b: self ref Bridge): (ref Session, string);
	};

	Session: adt {
		b:	ref Bridge;
		name:	string;		# its number
		dir:	string;		# where its files are
		ctl:	ref Sys->FD;	# an open file keeps it
		lock:	chan of int;	# of ctl: one command and its reply at a time

		ask:	fn(s: self ref Session, prompt: string): (string, string);
		stream:	fn(s: self ref Session, prompt: string): chan of (string, string);
		cancel:	fn(s: self ref Session): string;
		reset:	fn(s: self ref Session): string;

		usemodel:	fn(s: self ref Session, model: string): string;
		set:	fn(s: self ref Session, params: list of (string, string)): string;
		get:	fn(s: self ref Session, file: string): (string, string);
		put:	fn(s: self ref Session, file, text: string): string;
		status:	fn(s: self ref Session): (ref Status, string);
		usage:	fn(s: self ref Session): (ref Usage, string);
		command:	fn(s: self ref Session, cmd: string): (string, string);

		fork:	fn(s: self ref Session): (ref Session, string);
		close:	fn(s: self ref Session): string;
	};

	Status: adt {
		session:	string;	# its state: idle, queued, prefill, generating or failed
		error:	string;		# the session's last one
		turns:	int;		# questions in its conversation

		model:	string;		# its name
		path:	string;		# and file
		state:	string;		# none, loading, ready or failed
		progress:	real;	# of loading, from 0 to 1
		note:	string;		# what happened to it
		engine:	string;
		nctx:	int;		# tokens a conversation may hold

		version:	string;	# of the bridge
		uptime:	real;		# seconds
		sessions:	int;
		connections:	int;
		running:	int;	# answers
		queued:	int;		# answers that wait
	};

	Usage: adt {
		prompt:	int;		# tokens of the last question
		cached:	int;		# those of them that were computed before
		completion:	int;	# tokens of its answer
		finish:	string;		# stop, length, stop_string, context, cancelled or error
		queue:	real;		# seconds
		prefill:	real;
		decode:	real;
	};

	Pool: adt {
		members:	array of ref Member;
		lock:	chan of int;
		over:	int;		# disconnected

		new:	fn(addrs: list of string): (ref Pool, string);
		survey:	fn(p: self ref Pool);
		take:	fn(p: self ref Pool): (ref Bridge, string);
		release:	fn(p: self ref Pool, b: ref Bridge, err: string);
		lost:	fn(p: self ref Pool, b: ref Bridge, err: string);
		infer:	fn(p: self ref Pool, prompt: string, params: list of (string, string)): (string, string);
		disconnect:	fn(p: self ref Pool);
	};

	Member: adt {
		addr:	string;
		b:	ref Bridge;	# nil: it is gone
		st:	ref Status;	# when it was last asked
		err:	string;		# why it is gone
		tried:	int;		# then, by sys->millisec
		asked:	int;		# and has not answered yet
		busy:	int;		# how many took it and did not release it
	};

	init:	fn(): string;
	gone:	fn(err: string): int;
};
