"""The whole of llmux but its sockets, in virtual time: core, policy and driver, with everything around them made up.

A seed makes a world: models, devices, a policy, limits; clients who come, wait, leave and stream without end; hooks
that fail, hang, lie within what a hook may get wrong, and cannot be started; backends that crash, some without letting
go of their memory; operators who give orders at bad moments. Then all trouble ends, and everybody must be answered; or
llmux is stopped in the middle of it, and everybody must be told.

`machine.py` is what really is the case, hooks and memory; `people.py` clients and operators; `world.py` puts a seed's
world together, runs it and judges it; `loop.py` is an event loop whose time costs nothing.

    python -m tests.simulation --seeds 10000        # many, on all processors
    python -m tests.simulation --seed 4711 --story  # one, told line by line
"""
