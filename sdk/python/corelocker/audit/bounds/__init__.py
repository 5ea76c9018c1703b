"""How far a lock moves the network's activations: measured, certified from above, and as the paper's theorems estimate it.

There are three kinds of numbers. They must not be confused:

- **measured**: the disparity ||y - y*|| on given inputs. For the worst input it is a lower bound.
- **certificate**: an upper bound for every input whose norm is at most that of the largest given one. It follows from operator
  norms alone, with no assumption about the weights. Like all products of norms it grows quickly with depth.
- **theorems 1 to 4** of CoreLocker (IEEE S&P 2024): they assume i.i.d. sub-Gaussian weights and hold with a
  probability. The paper leaves the constants C_e and C_s open, so they are parameters here. These numbers are no
  certificate.

Norms are Euclidean over all elements of one sample's activation.
"""

from corelocker.audit.bounds.certificate import bounds
from corelocker.audit.bounds.operator_norms import conv_norm, linear_norm
from corelocker.audit.bounds.results import Bounds, LayerBound, LayerStatistics
from corelocker.audit.bounds.theorems import theorems

__all__ = ["Bounds", "LayerBound", "LayerStatistics", "bounds", "conv_norm", "linear_norm", "theorems"]
