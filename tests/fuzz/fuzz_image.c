/* Any bytes at all: an image or a refusal. What decodes is also resized and jittered, as a loader would. */
#include "image/image.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static const int64_t MAX_PIXELS = 1 << 16;

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  for (int channels = 1; channels <= 3; channels += 2) {
    np_image image, crop;
    const np_status st = np_image_decode(bytes, size, "fuzz", channels, MAX_PIXELS, &image);
    if (st != NP_OK) {
      if (image.pixels || np_error_message()[0] == '\0') abort();
      continue;
    }
    if ((int64_t)image.height * image.width > MAX_PIXELS || image.channels != channels) abort();
    const np_jitter jitter = {
        .order = {3, 2, 1, 0}, .brightness = 1.4, .contrast = 0.6, .saturation = 1.2, .hue = -0.1};
    if (np_image_eval_crop(&image, 14, 28, &crop) == NP_OK) np_image_jitter(&crop, &jitter);
    np_image_free(&crop);
    np_image_free(&image);
  }
  return 0;
}
