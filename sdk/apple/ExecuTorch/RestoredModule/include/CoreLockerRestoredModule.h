#import <ExecuTorch/ExecuTorchModule.h>
#import <Foundation/Foundation.h>

struct corelocker_file;

NS_ASSUME_NONNULL_BEGIN

/**
 * ExecuTorch's Module, run from restored files in place of a path.
 *
 * It answers every method of ExecuTorchModule. Once a file has been written to or shortened, loading and running
 * fail with ExecuTorchErrorCodeAccessFailed. Like ExecuTorchModule, it is for one thread at a time, and the tensors
 * of an output are valid until the method runs again.
 */
NS_SWIFT_NAME(RestoredModule)
__attribute__((objc_subclassing_restricted))
@interface CoreLockerRestoredModule : ExecuTorchModule

/**
 * @param program The handle of a restored .pte.
 * @param programOwner Closes the handle when it is released; the module retains it.
 * @param data The handle of a restored .ptd, or NULL when the program holds all of its weights.
 * @param dataOwner As programOwner, for data.
 */
- (instancetype)initWithProgram:(struct corelocker_file *)program
                   programOwner:(id)programOwner
                           data:(nullable struct corelocker_file *)data
                      dataOwner:(nullable id)dataOwner NS_DESIGNATED_INITIALIZER;

- (instancetype)initWithFilePath:(NSString *)filePath
                   dataFilePaths:(NSArray<NSString *> *)dataFilePaths
                        loadMode:(ExecuTorchModuleLoadMode)loadMode NS_UNAVAILABLE;
- (instancetype)initWithFilePath:(NSString *)filePath
                   dataFilePaths:(NSArray<NSString *> *)dataFilePaths NS_UNAVAILABLE;
- (instancetype)initWithFilePath:(NSString *)filePath
                        loadMode:(ExecuTorchModuleLoadMode)loadMode NS_UNAVAILABLE;
- (instancetype)initWithFilePath:(NSString *)filePath NS_UNAVAILABLE;

@end

NS_ASSUME_NONNULL_END
