// JNI of org.corelocker.android.NativeCore: opens locked files by the C core. Small on purpose: what can be decided in
// Kotlin is decided there. Errors go back as the core's numbers; a Java exception is pending only when the JVM threw one.
#include <jni.h>

#include <climits>
#include <cstdint>
#include <memory>
#include <new>

#include "corelocker/corelocker.h"

namespace {

constexpr jsize digest_size = 32;
constexpr jsize digests_of_a_patch = 3;
// MessageDigest takes buffers, which hold no more than this.
constexpr size_t largest_part = 1u << 30;

// What the SHA-256 of the platform needs while an open function runs on this thread.
struct Hasher {
  JNIEnv* env;
  jclass core;
  jmethodID sha256;
};

// Calls NativeCore.sha256(ByteBuffer[]): byte[].
int hash(void* context, const void* bytes, size_t size, uint8_t digest[32]) {
  const auto* hasher = static_cast<const Hasher*>(context);
  JNIEnv* env = hasher->env;
  const auto count = static_cast<jsize>((size + largest_part - 1) / largest_part);
  if (env->PushLocalFrame(count + 4) != 0) return 1;
  int failed = 1;
  jclass buffer_class = env->FindClass("java/nio/ByteBuffer");
  jobjectArray parts = buffer_class == nullptr ? nullptr : env->NewObjectArray(count, buffer_class, nullptr);
  // NewDirectByteBuffer takes no const pointer; the digest only reads.
  auto* start = static_cast<char*>(const_cast<void*>(bytes));
  for (jsize i = 0; parts != nullptr && i < count; ++i) {
    const size_t offset = static_cast<size_t>(i) * largest_part;
    const size_t length = size - offset < largest_part ? size - offset : largest_part;
    env->SetObjectArrayElement(parts, i, env->NewDirectByteBuffer(start + offset, static_cast<jlong>(length)));
  }
  if (parts != nullptr && !env->ExceptionCheck()) {
    auto result = static_cast<jbyteArray>(env->CallStaticObjectMethod(hasher->core, hasher->sha256, parts));
    if (!env->ExceptionCheck() && result != nullptr && env->GetArrayLength(result) == digest_size) {
      env->GetByteArrayRegion(result, 0, digest_size, reinterpret_cast<jbyte*>(digest));
      failed = 0;
    }
  }
  env->PopLocalFrame(nullptr);
  return failed;
}

// The arguments of an open call, in the core's form. The digests live as long as this.
class Options {
 public:
  // False when the arguments do not fit together, or there is no memory.
  bool read(JNIEnv* env, jobjectArray patches, jbyteArray digests) {
    count_ = env->GetArrayLength(patches);
    const jsize size = count_ * digests_of_a_patch * digest_size;
    if (env->GetArrayLength(digests) != size) return false;
    patches_.reset(new (std::nothrow) corelocker_patch[static_cast<size_t>(count_)]);
    digests_.reset(new (std::nothrow) uint8_t[static_cast<size_t>(size)]);
    if (patches_ == nullptr || digests_ == nullptr) return false;
    env->GetByteArrayRegion(digests, 0, size, reinterpret_cast<jbyte*>(digests_.get()));
    for (jsize i = 0; i < count_; ++i) {
      jobject buffer = env->GetObjectArrayElement(patches, i);
      void* bytes = env->GetDirectBufferAddress(buffer);
      const jlong capacity = env->GetDirectBufferCapacity(buffer);
      env->DeleteLocalRef(buffer);
      if (bytes == nullptr || capacity < 0) return false;
      const uint8_t* first = digests_.get() + i * digests_of_a_patch * digest_size;
      patches_[static_cast<size_t>(i)] = {bytes, static_cast<size_t>(capacity), first, first + digest_size,
                                          first + 2 * digest_size};
    }
    return true;
  }

  corelocker_options get(jlong file_size, const uint8_t* locked_sha256, jint full_check, jboolean copy, Hasher* hasher) {
    corelocker_options options = {};
    options.struct_size = sizeof(options);
    options.flags = copy != JNI_FALSE ? CORELOCKER_COPY : 0u;
    options.patches = patches_.get();
    options.patch_count = static_cast<size_t>(count_);
    options.file_size = static_cast<uint64_t>(file_size);
    options.sha256 = hash;
    options.sha256_context = hasher;
    options.full_check = static_cast<corelocker_full_check>(full_check);
    options.locked_sha256 = locked_sha256;
    return options;
  }

 private:
  jsize count_ = 0;
  std::unique_ptr<corelocker_patch[]> patches_;
  std::unique_ptr<uint8_t[]> digests_;
};

corelocker_file* file_of(jlong handle) { return reinterpret_cast<corelocker_file*>(handle); }

}  // namespace

extern "C" {

// Writes the handle to handle[0] and returns the core's error. `path` is UTF-8 without a zero byte, or NULL: then `fd`.
JNIEXPORT jint JNICALL Java_org_corelocker_android_NativeCore_open(JNIEnv* env, jclass core, jbyteArray path, jint fd,
                                                                    jlong offset, jlong length, jlong file_size,
                                                                    jobjectArray patches, jbyteArray digests,
                                                                    jbyteArray locked_sha256, jint full_check,
                                                                    jboolean copy, jlongArray handle) {
  Hasher hasher = {env, core, env->GetStaticMethodID(core, "sha256", "([Ljava/nio/ByteBuffer;)[B")};
  Options arguments;
  if (hasher.sha256 == nullptr || !arguments.read(env, patches, digests)) return CORELOCKER_ARGUMENT;
  if (env->GetArrayLength(locked_sha256) != digest_size) return CORELOCKER_ARGUMENT;
  uint8_t locked[digest_size];
  env->GetByteArrayRegion(locked_sha256, 0, digest_size, reinterpret_cast<jbyte*>(locked));
  const corelocker_options options = arguments.get(file_size, locked, full_check, copy, &hasher);
  corelocker_file* file = nullptr;
  corelocker_error error = CORELOCKER_OK;
  if (path == nullptr) {
    error = corelocker_open_fd(fd, static_cast<uint64_t>(offset), static_cast<uint64_t>(length), &options, &file);
  } else {
    const jsize size = env->GetArrayLength(path);
    std::unique_ptr<char[]> text(new (std::nothrow) char[static_cast<size_t>(size) + 1]);
    if (text == nullptr) return CORELOCKER_MEMORY;
    env->GetByteArrayRegion(path, 0, size, reinterpret_cast<jbyte*>(text.get()));
    text[static_cast<size_t>(size)] = 0;
    error = corelocker_open_path(text.get(), &options, &file);
  }
  const auto opened = reinterpret_cast<jlong>(file);
  env->SetLongArrayRegion(handle, 0, 1, &opened);
  return error;
}

// The restored bytes as a direct buffer, or NULL when it cannot be made or they are more than a buffer holds.
JNIEXPORT jobject JNICALL Java_org_corelocker_android_NativeCore_buffer(JNIEnv* env, jclass, jlong handle) {
  const corelocker_file* file = file_of(handle);
  const size_t size = corelocker_size(file);
  if (size > INT_MAX) return nullptr;
  // The caller makes it read-only; the pages are.
  return env->NewDirectByteBuffer(const_cast<void*>(corelocker_data(file)), static_cast<jlong>(size));
}

JNIEXPORT jlong JNICALL Java_org_corelocker_android_NativeCore_privateBytes(JNIEnv*, jclass, jlong handle) {
  return static_cast<jlong>(corelocker_private_bytes(file_of(handle)));
}

JNIEXPORT jint JNICALL Java_org_corelocker_android_NativeCore_check(JNIEnv*, jclass, jlong handle) {
  return corelocker_check(file_of(handle));
}

JNIEXPORT void JNICALL Java_org_corelocker_android_NativeCore_close(JNIEnv*, jclass, jlong handle) {
  corelocker_close(file_of(handle));
}

// The stamp of a file that has passed the full check, or NULL.
JNIEXPORT jbyteArray JNICALL Java_org_corelocker_android_NativeCore_stamp(JNIEnv* env, jclass, jlong handle) {
  uint8_t stamp[CORELOCKER_STAMP_SIZE];
  if (corelocker_get_stamp(file_of(handle), stamp) == 0) return nullptr;
  jbyteArray bytes = env->NewByteArray(CORELOCKER_STAMP_SIZE);
  if (bytes != nullptr) env->SetByteArrayRegion(bytes, 0, CORELOCKER_STAMP_SIZE, reinterpret_cast<jbyte*>(stamp));
  return bytes;
}

JNIEXPORT jint JNICALL Java_org_corelocker_android_NativeCore_rememberStamp(JNIEnv* env, jclass, jbyteArray bytes) {
  uint8_t stamp[CORELOCKER_STAMP_SIZE];
  if (env->GetArrayLength(bytes) != CORELOCKER_STAMP_SIZE) return CORELOCKER_ARGUMENT;
  env->GetByteArrayRegion(bytes, 0, CORELOCKER_STAMP_SIZE, reinterpret_cast<jbyte*>(stamp));
  return corelocker_remember_stamp(stamp, CORELOCKER_STAMP_SIZE);
}

JNIEXPORT jint JNICALL Java_org_corelocker_android_NativeCore_checkPatch(JNIEnv* env, jclass, jobject patch,
                                                                          jlong file_size) {
  const void* bytes = env->GetDirectBufferAddress(patch);
  const jlong capacity = env->GetDirectBufferCapacity(patch);
  if (bytes == nullptr || capacity < 0) return CORELOCKER_ARGUMENT;
  return corelocker_check_patch(bytes, static_cast<size_t>(capacity), static_cast<uint64_t>(file_size));
}

JNIEXPORT jstring JNICALL Java_org_corelocker_android_NativeCore_errorName(JNIEnv* env, jclass, jint error) {
  return env->NewStringUTF(corelocker_error_name(static_cast<corelocker_error>(error)));
}

JNIEXPORT jint JNICALL Java_org_corelocker_android_NativeCore_version(JNIEnv*, jclass) {
  return static_cast<jint>(corelocker_version());
}

}  // extern "C"
