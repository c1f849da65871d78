"""Estimates of the memory, traffic and time of a train step on a TPU slice, before it runs.

program       the train step to plan, with shapes in place of arrays
compiling     compiles it for TPUs that are not attached
memory        its memory by formula
formulas      its FLOPs, HBM traffic and network traffic by formula
hlo           parses the compiled program
traffic       the HBM traffic of the compiled program
collectives   the network traffic of the compiled program
roofline      the time of a step, from FLOPs and bytes
plan          all of these for one config and topology
advice        settings that would make the step fit or run faster
report        the plan as tables and as JSON
"""
