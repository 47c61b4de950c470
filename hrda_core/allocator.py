"""PyTorch's memory on a CPU in pages of 2 MB instead of 4 KB, where Linux lends them on request.

Networks allocate and free tensors of many megabytes all the time; with small pages, the system's work on them takes several
times longer than a ReLU. PyTorch looks at the variable at its first tensor; whoever has set it keeps their choice.
"""

import os

VARIABLE = "THP_MEM_ALLOC_ENABLE"
os.environ.setdefault(VARIABLE, "1")
