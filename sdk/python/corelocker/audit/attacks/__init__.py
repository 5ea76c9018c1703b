"""What an attacker gets back from a locked model: every attack with its budget and its own baseline.

The attacker is that of CoreLocker (IEEE S&P 2024, section on the threat model). The attacker has the file, knows the
architecture and holds a limited amount of data like the training data. The honest baseline of an attack that trains
is training from scratch with the same data and budget. What the lock leaks is the difference. Where an attack has
choices (learning rates, with or without statistics measured anew), all are tried and the best on the test set counts.
That errs in the attacker's favor.
"""

from corelocker.audit.attacks.bench import AttackBench
from corelocker.audit.attacks.schedule import run_attacks
from corelocker.audit.attacks.target import FULL, QUICK, AttackBudget, AttackTarget, Knowledge, Reach, suited
from corelocker.audit.attacks.tuning import fine_tune, prune, reinitialized, speeds_of_elements

__all__ = [
    "FULL",
    "QUICK",
    "AttackBench",
    "AttackBudget",
    "AttackTarget",
    "Knowledge",
    "Reach",
    "fine_tune",
    "prune",
    "reinitialized",
    "run_attacks",
    "speeds_of_elements",
    "suited",
]
