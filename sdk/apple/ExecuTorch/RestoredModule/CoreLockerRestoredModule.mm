#import "CoreLockerRestoredModule.h"

#import <ExecuTorch/ExecuTorchError.h>

#include <memory>
#include <utility>
#include <vector>

#include <executorch/extension/tensor/tensor.h>

#include "corelocker/executorch.h"

// Since 1.5.
#if __has_include(<executorch/runtime/backend/backend_options_map.h>)
#define HAS_BACKEND_OPTIONS 1
#include <executorch/runtime/backend/backend_options_map.h>
#else
#define HAS_BACKEND_OPTIONS 0
#endif

using executorch::extension::make_tensor_ptr;
using executorch::extension::TensorPtr;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::MethodMeta;
using executorch::runtime::Program;

NS_ASSUME_NONNULL_BEGIN

// ExecuTorch implements these and exports no header for them; they are asked for before they are called.
@interface ExecuTorchMethodMetadata (Implemented)
- (nullable instancetype)initWithMethodMetadata:(const MethodMeta &)methodMeta error:(NSError **)error;
@end

#if HAS_BACKEND_OPTIONS
@interface ExecuTorchBackendOptionsMap (Implemented)
- (const executorch::runtime::LoadBackendOptionsMap *)cppMap;
@end
#endif

NS_ASSUME_NONNULL_END

namespace {

using Values = NSMutableDictionary<NSString *, NSMutableDictionary<NSNumber *, ExecuTorchValue *> *>;

BOOL succeeded(Error code, NSError **error) {
  if (code == Error::Ok) return YES;
  if (error != nullptr) *error = ExecuTorchErrorWithCode(static_cast<ExecuTorchErrorCode>(code));
  return NO;
}

std::string text(NSString *name) { return name.UTF8String ?: ""; }

std::shared_ptr<corelocker_file> shared(corelocker_file *file, id owner) {
  if (file == nullptr) return nullptr;
  // The deleter's copy of the reference keeps the owner alive.
  return std::shared_ptr<corelocker_file>(file, [owner](corelocker_file *) { (void)owner; });
}

Error to_evalue(ExecuTorchValue *value, EValue *converted) {
  if (value.isTensor) {
    *converted = EValue(**static_cast<TensorPtr *>(value.tensorValue.nativeInstance));
  } else if (value.isDouble) {
    *converted = EValue(value.doubleValue);
  } else if (value.isInteger) {
    *converted = EValue(static_cast<int64_t>(value.intValue));
  } else if (value.isBoolean) {
    *converted = EValue(static_cast<bool>(value.boolValue));
  } else {
    return Error::InvalidType;
  }
  return Error::Ok;
}

Error to_evalues(NSArray<ExecuTorchValue *> *values, std::vector<EValue> *converted) {
  converted->reserve(values.count);
  for (ExecuTorchValue *value in values) {
    const Error error = to_evalue(value, &converted->emplace_back());
    if (error != Error::Ok) return error;
  }
  return Error::Ok;
}

ExecuTorchValue *to_value(const EValue &value) NS_RETURNS_RETAINED {
  if (value.isTensor()) {
    TensorPtr tensor = make_tensor_ptr(value.toTensor());
    return [ExecuTorchValue valueWithTensor:[[ExecuTorchTensor alloc] initWithNativeInstance:&tensor]];
  }
  if (value.isDouble()) return [ExecuTorchValue valueWithDouble:value.toDouble()];
  if (value.isInt()) return [ExecuTorchValue valueWithInteger:static_cast<NSInteger>(value.toInt())];
  if (value.isBool()) return [ExecuTorchValue valueWithBoolean:value.toBool()];
  if (value.isString()) {
    const auto view = value.toString();
    NSString *string = [[NSString alloc] initWithBytes:view.data() length:view.size() encoding:NSUTF8StringEncoding];
    return string != nil ? [ExecuTorchValue valueWithString:string] : nil;
  }
  return nil;
}

// ExecuTorch does not keep what inputs and outputs point to.
void keep(Values *values, NSString *method, NSInteger index, ExecuTorchValue *value) {
  if (values[method] == nil) values[method] = [NSMutableDictionary new];
  values[method][@(index)] = value;
}

}  // namespace

@implementation CoreLockerRestoredModule {
  std::unique_ptr<corelocker::RestoredModule> _restored;
  Values *_inputs;
  Values *_outputs;
}

- (instancetype)initWithProgram:(corelocker_file *)program
                   programOwner:(id)programOwner
                           data:(corelocker_file *)data
                      dataOwner:(id)dataOwner {
  // ExecuTorchModule opens its path when it first loads. A method that is not overridden here fails on the empty one.
  self = [super initWithFilePath:@"" dataFilePaths:@[] loadMode:ExecuTorchModuleLoadModeFile];
  if (self) {
    _restored =
        std::make_unique<corelocker::RestoredModule>(shared(program, programOwner), shared(data, dataOwner));
    _inputs = [NSMutableDictionary new];
    _outputs = [NSMutableDictionary new];
  }
  return self;
}

- (BOOL)loadWithVerification:(ExecuTorchVerification)verification error:(NSError **)error {
  return succeeded(_restored->load(static_cast<Program::Verification>(verification)), error);
}

- (BOOL)isLoaded {
  return _restored->is_loaded();
}

- (BOOL)loadMethod:(NSString *)methodName error:(NSError **)error {
  return succeeded(_restored->load_method(text(methodName)), error);
}

#if HAS_BACKEND_OPTIONS
- (BOOL)loadWithOptions:(ExecuTorchBackendOptionsMap *)options
           verification:(ExecuTorchVerification)verification
                  error:(NSError **)error {
  if (![options respondsToSelector:@selector(cppMap)]) return succeeded(Error::NotSupported, error);
  return succeeded(_restored->load(*[options cppMap], static_cast<Program::Verification>(verification)), error);
}

- (BOOL)loadMethod:(NSString *)methodName options:(ExecuTorchBackendOptionsMap *)options error:(NSError **)error {
  if (![options respondsToSelector:@selector(cppMap)]) return succeeded(Error::NotSupported, error);
  return succeeded(_restored->load_method(text(methodName), nullptr, nullptr, [options cppMap]), error);
}
#endif

- (BOOL)isMethodLoaded:(NSString *)methodName {
  return _restored->is_method_loaded(text(methodName));
}

- (BOOL)unloadMethod:(NSString *)methodName {
  const bool unloaded = _restored->unload_method(text(methodName));
  [_inputs removeObjectForKey:methodName];
  [_outputs removeObjectForKey:methodName];
  return unloaded;
}

- (NSSet<NSString *> *)methodNames:(NSError **)error {
  const auto names = _restored->method_names();
  if (!succeeded(names.error(), error)) return nil;
  NSMutableSet<NSString *> *found = [NSMutableSet new];
  for (const std::string &name : *names) [found addObject:@(name.c_str())];
  return found;
}

- (ExecuTorchMethodMetadata *)methodMetadata:(NSString *)methodName error:(NSError **)error {
  const auto meta = _restored->method_meta(text(methodName));
  if (!succeeded(meta.error(), error)) return nil;
  if (![ExecuTorchMethodMetadata instancesRespondToSelector:@selector(initWithMethodMetadata:error:)]) {
    succeeded(Error::NotSupported, error);
    return nil;
  }
  return [[ExecuTorchMethodMetadata alloc] initWithMethodMetadata:meta.get() error:error];
}

- (NSArray<ExecuTorchValue *> *)executeMethod:(NSString *)methodName
                                   withInputs:(NSArray<ExecuTorchValue *> *)values
                                        error:(NSError **)error {
  std::vector<EValue> inputs;
  if (!succeeded(to_evalues(values, &inputs), error)) return nil;
  const auto result = _restored->execute(text(methodName), inputs);
  if (!succeeded(result.error(), error)) return nil;
  NSMutableArray<ExecuTorchValue *> *outputs = [NSMutableArray new];
  for (const EValue &value : *result) {
    ExecuTorchValue *output = to_value(value);
    if (output == nil) {
      succeeded(Error::NotSupported, error);
      return nil;
    }
    [outputs addObject:output];
  }
  return outputs;
}

- (BOOL)setInput:(ExecuTorchValue *)value
       forMethod:(NSString *)methodName
         atIndex:(NSInteger)index
           error:(NSError **)error {
  EValue input;
  if (!succeeded(to_evalue(value, &input), error)) return NO;
  if (!succeeded(_restored->set_input(text(methodName), input, static_cast<size_t>(index)), error)) return NO;
  keep(_inputs, methodName, index, value);
  return YES;
}

- (BOOL)setInputs:(NSArray<ExecuTorchValue *> *)values forMethod:(NSString *)methodName error:(NSError **)error {
  std::vector<EValue> inputs;
  if (!succeeded(to_evalues(values, &inputs), error)) return NO;
  if (!succeeded(_restored->set_inputs(text(methodName), inputs), error)) return NO;
  for (NSUInteger index = 0; index < values.count; index++) {
    keep(_inputs, methodName, static_cast<NSInteger>(index), values[index]);
  }
  return YES;
}

- (BOOL)setOutput:(ExecuTorchValue *)value
        forMethod:(NSString *)methodName
          atIndex:(NSInteger)index
            error:(NSError **)error {
  EValue output;
  if (!succeeded(to_evalue(value, &output), error)) return NO;
  if (!succeeded(_restored->set_output(text(methodName), output, static_cast<size_t>(index)), error)) return NO;
  keep(_outputs, methodName, index, value);
  return YES;
}

@end
