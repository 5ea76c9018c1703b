// The data loader of the C++ layer. It is compiled here because it needs ExecuTorch's headers, which CCoreLocker does without.
#include "../../../cpp/src/executorch.cpp"
