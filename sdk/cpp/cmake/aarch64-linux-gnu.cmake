# arm64 Linux, with Debian's cross compiler; programs run under qemu-user.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)

# qemu's default processor computes XNNPACK's int8 kernels wrongly.
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64;-cpu;cortex-a76;-L;/usr/aarch64-linux-gnu)

# tools/setup-cpp.sh puts OpenSSL for arm64 there.
set(OPENSSL_ROOT_DIR $ENV{CORELOCKER_ARM64_OPENSSL})
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu ${OPENSSL_ROOT_DIR})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
