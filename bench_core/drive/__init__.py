"""The host: plans a run, launches every engine in its own box, collects what it leaves. The only room with Docker."""
