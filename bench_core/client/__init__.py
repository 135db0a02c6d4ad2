"""The serving client: asks a server over HTTP under a load, and says when each token was there."""
