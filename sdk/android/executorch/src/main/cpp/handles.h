// What the JNI functions of this library share.
#pragma once

#include <jni.h>

#include <string>

#include "corelocker/executorch.h"

namespace corelocker::jni {

inline RestoredModule* module_of(jlong handle) { return reinterpret_cast<RestoredModule*>(handle); }

// The text in (modified) UTF-8; empty when there is no memory, with a Java exception pending.
inline std::string text_of(JNIEnv* env, jstring text) {
  const char* characters = env->GetStringUTFChars(text, nullptr);
  if (characters == nullptr) return {};
  std::string copy(characters);
  env->ReleaseStringUTFChars(text, characters);
  return copy;
}

// A String[], or NULL with a Java exception pending. The texts are ASCII.
template <typename Texts>
jobjectArray array_of(JNIEnv* env, const Texts& texts) {
  jclass type = env->FindClass("java/lang/String");
  jobjectArray result = type == nullptr ? nullptr : env->NewObjectArray(static_cast<jsize>(texts.size()), type, nullptr);
  jsize index = 0;
  for (const std::string& text : texts) {
    if (result == nullptr) return nullptr;
    jstring element = env->NewStringUTF(text.c_str());
    if (element == nullptr) return nullptr;
    env->SetObjectArrayElement(result, index++, element);
    env->DeleteLocalRef(element);
  }
  return result;
}

}  // namespace corelocker::jni
