"""The engine's own server: started, watched and told of, beside a client in another container."""
