// JNI of org.corelocker.executorch.NativeModule: runs restored models. Values cross as kinds, shapes, bits and direct buffers,
// so that nothing here depends on the private parts of ExecuTorch's Java classes. Functions return ExecuTorch's error number;
// a Java exception is pending only when the JVM threw one.
#include <jni.h>

#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include <executorch/extension/tensor/tensor_ptr_maker.h>

#include "diagnostics.h"
#include "handles.h"

namespace {

using corelocker::RestoredModule;
using corelocker::jni::array_of;
using corelocker::jni::module_of;
using corelocker::jni::text_of;
using executorch::aten::ScalarType;
using executorch::extension::TensorPtr;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::isValid;

// NativeValue.kt has the same numbers.
enum Kind : jint { none = 0, tensor = 1, boolean = 2, integer = 3, real = 4 };

jint number(Error error) { return static_cast<jint>(error); }

// The inputs of a call: for each a kind, a dtype, a shape, a direct buffer, and the bits of a number.
class Inputs {
 public:
  Error read(JNIEnv* env, jintArray kinds, jintArray dtypes, jobjectArray shapes, jobjectArray buffers, jlongArray bits) {
    const jsize count = env->GetArrayLength(kinds);
    if (env->GetArrayLength(dtypes) != count || env->GetArrayLength(shapes) != count ||
        env->GetArrayLength(buffers) != count || env->GetArrayLength(bits) != count) {
      return Error::InvalidArgument;
    }
    for (jsize i = 0; i < count; ++i) {
      jint kind = none;
      jint dtype = 0;
      jlong value = 0;
      env->GetIntArrayRegion(kinds, i, 1, &kind);
      env->GetIntArrayRegion(dtypes, i, 1, &dtype);
      env->GetLongArrayRegion(bits, i, 1, &value);
      if (kind == tensor) {
        const Error error = read_tensor(env, dtype, env->GetObjectArrayElement(shapes, i), env->GetObjectArrayElement(buffers, i));
        if (error != Error::Ok) return error;
      } else if (!add_scalar(kind, value)) {
        return Error::InvalidType;
      }
    }
    return Error::Ok;
  }

  const std::vector<EValue>& values() const { return values_; }

 private:
  bool add_scalar(jint kind, jlong bits) {
    double real_value = 0;
    std::memcpy(&real_value, &bits, sizeof(real_value));
    switch (kind) {
      case none:
        values_.emplace_back();
        return true;
      case boolean:
        values_.emplace_back(bits != 0);
        return true;
      case integer:
        values_.emplace_back(static_cast<int64_t>(bits));
        return true;
      case real:
        values_.emplace_back(real_value);
        return true;
      default:
        return false;
    }
  }

  Error read_tensor(JNIEnv* env, jint dtype, jobject shape_object, jobject buffer) {
    auto* shape = static_cast<jlongArray>(shape_object);
    if (shape == nullptr || buffer == nullptr) return Error::InvalidArgument;
    const jsize dimensions = env->GetArrayLength(shape);
    std::vector<jlong> wide(static_cast<size_t>(dimensions));
    env->GetLongArrayRegion(shape, 0, dimensions, wide.data());
    const auto type = static_cast<ScalarType>(dtype);
    if (!isValid(type)) return Error::InvalidType;
    const auto capacity = static_cast<uint64_t>(env->GetDirectBufferCapacity(buffer));
    uint64_t bytes = executorch::runtime::elementSize(type);
    std::vector<executorch::aten::SizesType> sizes;
    for (const jlong size : wide) {
      // Bounded at each step, so the product does not overflow.
      if (size < 0 || size > INT32_MAX || (size != 0 && bytes > capacity / static_cast<uint64_t>(size))) return Error::InvalidArgument;
      bytes *= static_cast<uint64_t>(size);
      sizes.push_back(static_cast<executorch::aten::SizesType>(size));
    }
    void* data = env->GetDirectBufferAddress(buffer);
    if (data == nullptr || bytes != capacity) return Error::InvalidArgument;
    tensors_.push_back(executorch::extension::from_blob(data, std::move(sizes), type));
    values_.emplace_back(*tensors_.back());
    env->DeleteLocalRef(shape_object);
    env->DeleteLocalRef(buffer);
    return Error::Ok;
  }

  std::vector<TensorPtr> tensors_;
  std::vector<EValue> values_;
};

// Hands the outputs to NativeResults, which owns copies: the model's own memory is written again by the next call.
class Outputs {
 public:
  Outputs(JNIEnv* env, jobject results) : env_(env), results_(results) {
    jclass type = env->GetObjectClass(results);
    add_tensor_ = env->GetMethodID(type, "addTensor", "(I[JI)Ljava/nio/ByteBuffer;");
    add_number_ = add_tensor_ == nullptr ? nullptr : env->GetMethodID(type, "addNumber", "(IJ)V");
  }

  Error add(const EValue& value) {
    if (add_number_ == nullptr) return Error::Internal;
    if (value.isTensor()) return add_tensor(value.toTensor());
    jlong bits = 0;
    jint kind = none;
    if (value.isBool()) {
      kind = boolean;
      bits = value.toBool() ? 1 : 0;
    } else if (value.isInt()) {
      kind = integer;
      bits = value.toInt();
    } else if (value.isDouble()) {
      kind = real;
      const double real_value = value.toDouble();
      std::memcpy(&bits, &real_value, sizeof(bits));
    } else if (!value.isNone()) {
      return Error::NotSupported;
    }
    env_->CallVoidMethod(results_, add_number_, kind, bits);
    return env_->ExceptionCheck() ? Error::Internal : Error::Ok;
  }

 private:
  Error add_tensor(const executorch::aten::Tensor& value) {
    const auto dimensions = static_cast<jsize>(value.dim());
    if (value.nbytes() > INT32_MAX) return Error::NotSupported;
    std::vector<jlong> sizes(value.sizes().begin(), value.sizes().end());
    jlongArray shape = env_->NewLongArray(dimensions);
    if (shape == nullptr) return Error::MemoryAllocationFailed;
    env_->SetLongArrayRegion(shape, 0, dimensions, sizes.data());
    jobject buffer = env_->CallObjectMethod(results_, add_tensor_, static_cast<jint>(value.scalar_type()), shape,
                                            static_cast<jint>(value.nbytes()));
    if (env_->ExceptionCheck() || buffer == nullptr) return Error::NotSupported;
    std::memcpy(env_->GetDirectBufferAddress(buffer), value.const_data_ptr(), value.nbytes());
    env_->DeleteLocalRef(buffer);
    env_->DeleteLocalRef(shape);
    return Error::Ok;
  }

  JNIEnv* env_;
  jobject results_;
  jmethodID add_tensor_ = nullptr;
  jmethodID add_number_ = nullptr;
};

}  // namespace

extern "C" {

// Takes over the handles of restored files, also when it fails; `data` is 0 where the program holds all of its weights. 0 when there
// is no memory.
JNIEXPORT jlong JNICALL Java_org_corelocker_executorch_NativeModule_open(JNIEnv*, jclass, jlong program, jlong data) {
  corelocker::jni::remember_log();
  auto* program_file = reinterpret_cast<corelocker_file*>(program);
  auto* data_file = reinterpret_cast<corelocker_file*>(data);
  auto* module = new (std::nothrow) RestoredModule(program_file, data_file, corelocker::jni::new_tracer());
  if (module == nullptr) {
    corelocker_close(program_file);
    corelocker_close(data_file);
  }
  return reinterpret_cast<jlong>(module);
}

JNIEXPORT void JNICALL Java_org_corelocker_executorch_NativeModule_close(JNIEnv*, jclass, jlong handle) {
  delete module_of(handle);
}

JNIEXPORT jint JNICALL Java_org_corelocker_executorch_NativeModule_loadMethod(JNIEnv* env, jclass, jlong handle, jstring method) {
  return number(module_of(handle)->load_method(text_of(env, method)));
}

// The names of the methods, or NULL when the program cannot be read.
JNIEXPORT jobjectArray JNICALL Java_org_corelocker_executorch_NativeModule_methods(JNIEnv* env, jclass, jlong handle) {
  const auto names = module_of(handle)->method_names();
  return names.ok() ? array_of(env, *names) : nullptr;
}

// The names of the backends that a method is lowered to, or NULL when there is no such method.
JNIEXPORT jobjectArray JNICALL Java_org_corelocker_executorch_NativeModule_backends(JNIEnv* env, jclass, jlong handle,
                                                                                     jstring method) {
  const auto meta = module_of(handle)->method_meta(text_of(env, method));
  if (!meta.ok()) return nullptr;
  std::vector<std::string> names;
  for (size_t i = 0; i < meta->num_backends(); ++i) {
    const auto name = meta->get_backend_name(i);
    if (name.ok()) names.emplace_back(*name);
  }
  return array_of(env, names);
}

JNIEXPORT jint JNICALL Java_org_corelocker_executorch_NativeModule_execute(JNIEnv* env, jclass, jlong handle, jstring method,
                                                                            jintArray kinds, jintArray dtypes, jobjectArray shapes,
                                                                            jobjectArray buffers, jlongArray bits, jobject results) {
  Inputs inputs;
  Error error = inputs.read(env, kinds, dtypes, shapes, buffers, bits);
  if (error != Error::Ok) return number(error);
  const auto outputs = module_of(handle)->execute(text_of(env, method), inputs.values());
  if (!outputs.ok()) return number(outputs.error());
  Outputs writer(env, results);
  for (const EValue& output : *outputs) {
    error = writer.add(output);
    if (error != Error::Ok) return number(error);
  }
  return number(Error::Ok);
}

}  // extern "C"
