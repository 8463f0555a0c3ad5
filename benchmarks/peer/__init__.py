"""`make bench-peer`: the bridge and llama-server on the same machine, build and model, in turn.

- `cases`: what is measured, the bars, and what each side is started with: one table
- `prompts`: questions and texts that nobody asked before
- `sessions`: one conversation over one connection, 9P or HTTP, and many followed by one thread
- `sides`: the two servers, started for a case and ended after it
- `figures`: ratios, the table, JSON
- `picture`: docs/performance.svg, also of a `peer.json` that there is
- `tune`: apart from these, finds the best settings of llama-server
"""
