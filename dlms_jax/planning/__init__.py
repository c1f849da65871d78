"""CONFIG + TOPOLOGY -> WHAT IT WILL TAKE: memory, traffic and time of a train step, not yet run.

`program` is the step that is planned, `compiling` compiles it for chips that are not here, `memory`
and `traffic` say what a formula can of it, `hlo` and `collectives` read what the compiler made,
`roofline` turns numbers into time, `advice` into settings, `report` into tables.
"""
