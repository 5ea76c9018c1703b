/* CoreLocker restore core: applies access keys to a locked model file, in memory.
 *
 * A locked file is brought into private memory, the patches of a key bundle are applied, the pages become read-only,
 * and the model runtime loads from that memory. The file itself is never written. Where a patch touches few pages, only
 * these take memory. docs/formats.md is the authority on patches, samples and what is checked in which order.
 *
 * The core holds no cryptography: the platform decrypts the patches and lends a SHA-256. All functions are thread-safe
 * for different handles; the functions that take a `const corelocker_file *` are thread-safe for one handle too.
 *
 * The ABI: CORELOCKER_VERSION_MAJOR changes when a structure or function changes or goes. Otherwise it only grows, and
 * new fields go to the end of corelocker_options, whose struct_size says how many the caller knows.
 */
#ifndef CORELOCKER_CORELOCKER_H
#define CORELOCKER_CORELOCKER_H

#include <stddef.h>
#include <stdint.h>

#define CORELOCKER_VERSION_MAJOR 2
#define CORELOCKER_VERSION_MINOR 0
#define CORELOCKER_VERSION_PATCH 0

#if defined(CORELOCKER_SHARED) && defined(__GNUC__)
#define CORELOCKER_API __attribute__((visibility("default")))
#else
#define CORELOCKER_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Why a call failed. The values are stable; corelocker_error_name gives the word that the Python, Kotlin and Swift
 * layers use for the same error. */
typedef enum corelocker_error {
  CORELOCKER_OK = 0,

  CORELOCKER_ARGUMENT = 1,     /* "argument": the call itself is wrong, see the function */
  CORELOCKER_MEMORY = 2,       /* "memory": no memory or no address space left */
  CORELOCKER_FILE_ACCESS = 3,  /* "file-access": the file cannot be opened, read or mapped; errno says why */
  CORELOCKER_FILE_CHANGED = 4, /* "file-changed": somebody wrote to or shortened the file while it was open */

  CORELOCKER_PATCH_TRUNCATED = 16, /* "patch-truncated" */
  CORELOCKER_PATCH_MAGIC = 17,     /* "patch-magic" */
  CORELOCKER_PATCH_RESERVED = 18,  /* "patch-reserved" */
  CORELOCKER_PATCH_RUN = 19,       /* "patch-run" */
  CORELOCKER_PATCH_ORDER = 20,     /* "patch-order" */
  CORELOCKER_PATCH_OVERFLOW = 21,  /* "patch-overflow" */
  CORELOCKER_PATCH_BOUNDS = 22,    /* "patch-bounds" */
  CORELOCKER_PATCH_OVERLAP = 23,   /* "patch-overlap" */
  CORELOCKER_PATCH_PAYLOAD = 24,   /* "patch-payload" */
  CORELOCKER_PATCH_TRAILING = 25,  /* "patch-trailing" */
  CORELOCKER_PATCH_VERSION = 26,   /* "patch-version": of another version; the model has to be locked again */
  CORELOCKER_PATCH_KIND = 27,      /* "patch-kind" */
  CORELOCKER_PATCH_TABLE = 28,     /* "patch-table" */
  CORELOCKER_PATCH_PADDING = 29,   /* "patch-padding" */

  CORELOCKER_RESTORE_SIZE = 32,     /* "restore-size": the file is not as long as file_size says */
  CORELOCKER_RESTORE_ALREADY = 33,  /* "restore-already": the file is restored already */
  CORELOCKER_RESTORE_REPLACED = 34, /* "restore-replaced": the file is not the locked file of the bundle */
  CORELOCKER_RESTORE_RESTORED = 35  /* "restore-restored": the restored file is not the publisher's */
} corelocker_error;

/* A decrypted section of a key bundle. Each digest points to 32 bytes. */
typedef struct corelocker_patch {
  /* The patch (docs/formats.md, "Patch"). It is consumed: whatever the outcome of the open, all `size` bytes are zero
   * when it returns. Shares no memory with another patch or with the buffer that is opened. */
  void* bytes;
  size_t size;
  const uint8_t* locked_sample;   /* `sample` of the section in the bundle's header: of the locked file */
  const uint8_t* restored_sample; /* `sample` inside the section: of the file after this patch */
  const uint8_t* restored_sha256; /* `file` inside the section: SHA-256 of the whole file after this patch */
} corelocker_patch;

/* Writes the SHA-256 of `size` bytes to `digest` and returns 0, or anything else when it cannot. Called only while an
 * open function runs, on its thread. */
typedef int (*corelocker_sha256)(void* context, const void* bytes, size_t size, uint8_t digest[32]);

/* When the whole file is read and its SHA-256 compared. Otherwise nothing looks at the bytes that no patch touches,
 * but for the 64 places of a sample. */
typedef enum corelocker_full_check {
  CORELOCKER_FULL_CHECK_DEFAULT = 0, /* ONCE where a run of the patches flips elements, else OFF */
  CORELOCKER_FULL_CHECK_OFF = 1,     /* never: for files inside an app package, whose signature vouches for them */
  CORELOCKER_FULL_CHECK_ONCE = 2,    /* unless a stamp of this file and digest is remembered; buffers always */
  CORELOCKER_FULL_CHECK_ALWAYS = 3   /* at each open */
} corelocker_full_check;

/* Let the digests of a patch be NULL; each that is NULL is not compared. For tests: a wrong patch then gives a wrong
 * model, silently. */
#define CORELOCKER_UNCHECKED 1u
/* Read the file into memory instead of mapping it. Costs the file's size in private memory, and makes the restored
 * model independent of the file: it may then be shortened or overwritten at any time. Without this flag nothing can
 * keep the kernel from sending SIGBUS to a thread that reads the mapping at the moment at which somebody shortens the
 * file. */
#define CORELOCKER_COPY 2u

typedef struct corelocker_options {
  uint32_t struct_size; /* sizeof(corelocker_options) */
  uint32_t flags;
  corelocker_patch* patches; /* applied in this order: the tiers' patches from the lowest tier on */
  size_t patch_count;        /* 0 opens the file as it is: locked */
  uint64_t file_size;        /* bytes that the locked file has by the key bundle; CORELOCKER_ANY_SIZE for no check */
  corelocker_sha256 sha256;  /* NULL when nothing has a digest */
  void* sha256_context;
  corelocker_full_check full_check;
  const uint8_t* locked_sha256; /* `sha256` of the file in the bundle's header, for the full check of a file that is
                                   opened without patches; may be NULL when there is no such check */
} corelocker_options;

#define CORELOCKER_ANY_SIZE UINT64_MAX

/* A restored file in memory. */
typedef struct corelocker_file corelocker_file;

/* Open a locked file and apply the patches: all of them or none.
 *
 * On success *file is a handle for corelocker_close, and its bytes are read-only memory. On failure *file is NULL,
 * nothing stays mapped and the file or buffer is as it was. `options` may be NULL: no patch, no check.
 * CORELOCKER_ARGUMENT: a NULL pointer, an unknown struct_size, flag or full_check, a patch without digests (see
 * CORELOCKER_UNCHECKED), a full check without the digest of the file, a digest without sha256, or sha256 failed. */
CORELOCKER_API corelocker_error corelocker_open_path(const char* path, const corelocker_options* options,
                                                     corelocker_file** file);

/* The same for `length` bytes at `offset` of an open file, which need not be aligned: an uncompressed asset of an
 * Android package. CORELOCKER_TO_END takes the rest of the file. The descriptor is duplicated, so the caller may close
 * its own. When the bytes would not lie at a multiple of CORELOCKER_ALIGNMENT in memory, they are read as by
 * CORELOCKER_COPY, since model runtimes rely on alignment. */
CORELOCKER_API corelocker_error corelocker_open_fd(int fd, uint64_t offset, uint64_t length,
                                                   const corelocker_options* options, corelocker_file** file);

#define CORELOCKER_TO_END UINT64_MAX
#define CORELOCKER_ALIGNMENT 16

/* The same for the caller's own writable memory, which is changed in place. It stays the caller's, must outlive the
 * handle and is not made read-only. After a failure it holds what it held before. */
CORELOCKER_API corelocker_error corelocker_open_buffer(void* bytes, size_t size, const corelocker_options* options,
                                                       corelocker_file** file);

/* The restored bytes. They stay valid and do not move until corelocker_close. */
CORELOCKER_API const void* corelocker_data(const corelocker_file* file);
CORELOCKER_API size_t corelocker_size(const corelocker_file* file);

/* Bytes of memory that the handle holds for itself, in whole pages: what the patches touched, or everything after a
 * copy. Where patches touch many pages of a region, the open reads the region as a whole, as that is cheaper. */
CORELOCKER_API uint64_t corelocker_private_bytes(const corelocker_file* file);

/* Whether the file is still the one that was opened: CORELOCKER_OK, or CORELOCKER_FILE_CHANGED when it was written to
 * or shortened since (then nothing of corelocker_data may be read), by its length and modification time. One system
 * call. Replacing the file by renaming another over it is no change: the handle keeps the old one. */
CORELOCKER_API corelocker_error corelocker_check(const corelocker_file* file);

/* A stamp stands for a file that has passed the full check: its device, inode, size and modification time, which part
 * of it was opened, and the digest. CORELOCKER_FULL_CHECK_ONCE and _ALWAYS remember stamps, the last
 * CORELOCKER_STAMP_CAPACITY of the process. An app that wants `once` to last longer keeps the bytes, opaque to it, in
 * storage that only the app can write, and hands them back before it opens the file in its next process. */
#define CORELOCKER_STAMP_SIZE 80
#define CORELOCKER_STAMP_CAPACITY 64

/* Writes the stamp of a file that has passed the full check, now or before, and returns 1. Returns 0 and writes nothing
 * where there was no full check, and for buffers. */
CORELOCKER_API int corelocker_get_stamp(const corelocker_file* file, uint8_t stamp[CORELOCKER_STAMP_SIZE]);

/* Remember a stamp from an earlier process; the oldest is forgotten when there are too many. Thread-safe.
 * CORELOCKER_ARGUMENT: NULL or another size than CORELOCKER_STAMP_SIZE. */
CORELOCKER_API corelocker_error corelocker_remember_stamp(const uint8_t* stamp, size_t size);

/* Unmap and free. NULL is allowed. */
CORELOCKER_API void corelocker_close(corelocker_file* file);

/* Check a patch for a file of `file_size` bytes and change nothing. Time and memory are bounded by `size`, whatever the
 * patch says. */
CORELOCKER_API corelocker_error corelocker_check_patch(const void* bytes, size_t size, uint64_t file_size);

/* Overwrite secret bytes with zeros in a way that the compiler keeps. */
CORELOCKER_API void corelocker_wipe(void* bytes, size_t size);

/* The stable word of an error, "ok" for CORELOCKER_OK, and a sentence for people. Never NULL. */
CORELOCKER_API const char* corelocker_error_name(corelocker_error error);
CORELOCKER_API const char* corelocker_error_text(corelocker_error error);

/* CORELOCKER_VERSION_* of the library as major << 16 | minor << 8 | patch. */
CORELOCKER_API uint32_t corelocker_version(void);

#ifdef __cplusplus
}
#endif

#endif
