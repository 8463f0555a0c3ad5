"""More than one machine: models as Ray Serve applications. See `engine.cluster.host`.

The bridge's process never imports Ray: a gateway process (`engine.cluster.gateway`) talks to the
cluster, as a worker process talks to llama.cpp. What runs on the cluster's nodes is
`engine.cluster.replica` and `engine.cluster.agent`.
"""
