"""What runs inside a confined process: load the code, bind it to shared memory, call it, keep time.

The process is given code and inputs, never the reference's outputs or the comparison. It talks to the runner over one
socket (`channel`), sees inputs through a read-only mapping and leaves outputs in a mapping of its own (`arrays`).

    runner                                  worker
    hello {framework, device}          →    import torch where it is needed
    load {code}                        →    import or dlopen
    bind {tensors, slots} + 2 fds      →    map, build argument lists
    lock {}                            →    no new process any more
    prepare {slots, seeds, poison}     →    CUDA only: inputs staged on the device, poisoned outputs
    order {slot, poison}               →    CUDA only: one call behind a long pause, to find work on other streams
    go {slots, repeat, probe}          →    call; time; copy returned values (CPU)
    inspect {slot}                     →    copy the last values (again), say what changed since
    exit {}                            →    end

Every answer repeats the operation's name, or is ``failed`` with a status and a log.
While the runner prepares inputs it stops the whole process group, so a thread of the solution cannot use that time.
"""
