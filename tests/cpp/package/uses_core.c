#include <corelocker/corelocker.h>
#include <string.h>

int main(void) {
  unsigned char bytes[4] = "abc";
  unsigned char patch[24 + 24 + 1] = {'C', 'L', 'P', 'A', 'T', 'C', 'H', '2', 1};
  patch[16] = 1;                                       /* payload bytes */
  patch[24] = 1;                                       /* offset */
  patch[24 + 8] = patch[24 + 12] = patch[24 + 16] = 1; /* length, stride, count */
  patch[24 + 24] = 'B';
  corelocker_patch entry = {patch, sizeof patch, NULL, NULL, NULL};
  corelocker_options options = {sizeof options, CORELOCKER_UNCHECKED,      &entry, 1, 4, NULL,
                                NULL,           CORELOCKER_FULL_CHECK_OFF, NULL};
  corelocker_file* file = NULL;
  if (corelocker_open_buffer(bytes, sizeof bytes, &options, &file) != CORELOCKER_OK) return 1;
  if (memcmp(corelocker_data(file), "aBc", 4) != 0) return 2;
  corelocker_close(file);
  return corelocker_version() >> 16 == CORELOCKER_VERSION_MAJOR ? 0 : 3;
}
