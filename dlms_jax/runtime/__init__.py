"""WHAT KEEPS A RUN ALIVE: saves, resume, preemption, rollback, watchdog, goodput, metrics."""
