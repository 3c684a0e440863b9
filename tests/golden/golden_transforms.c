/* The transforms case: images decoded, cropped, flipped and jittered as Pillow and torchvision did it. */
#include "golden/golden.h"
#include "image/image.h"
#include "util/file.h"
#include "util/safetensors.h"

#include <archive.h>
#include <archive_entry.h>
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const int64_t MAX_PIXELS = INT64_C(1) << 28;
enum { MAX_DIFFERENCE = 1, MAX_MADE = 16 };
static const double MIN_EQUAL = 0.99;

/* One image of the case, and what was made of it so far under the name that case.json gives it. */
typedef struct sample {
  const char *folder, *file;
  const np_safetensors *expect;
  np_image decoded;
  struct {
    const char *name;
    np_image image;
  } made[MAX_MADE];
  int made_count;
} sample;

static int complain(void) {
  printf("%s\n", np_error_message());
  return 1;
}

static const char *text_of(const cJSON *json, const char *key) {
  const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, key));
  if (!text) printf("case.json: \"%s\" is missing\n", key);
  return text ? text : "";
}

static double number_of(const cJSON *json, const char *key) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
  if (!cJSON_IsNumber(item)) printf("case.json: number \"%s\" is missing\n", key);
  return cJSON_IsNumber(item) ? item->valuedouble : 0;
}

/* "size" is one number, or height and width. */
static void size_of(const cJSON *json, int *height, int *width) {
  const cJSON *size = cJSON_GetObjectItemCaseSensitive(json, "size");
  if (cJSON_IsArray(size)) {
    *height = (int)cJSON_GetNumberValue(cJSON_GetArrayItem(size, 0));
    *width = (int)cJSON_GetNumberValue(cJSON_GetArrayItem(size, 1));
  } else {
    *height = *width = (int)number_of(json, "size");
  }
}

/* ---- finding an image ----------------------------------------------------------------------------------------------
 */

/* The entry of a tar file whose last path component is `file`. */
static np_status read_from_tar(const char *tar, const char *file, char **bytes, size_t *size) {
  np_status st = np_error(NP_ERR_FORMAT, "%s: holds no %s", tar, file);
  struct archive *archive = archive_read_new();
  struct archive_entry *entry;
  archive_read_support_format_tar(archive);
  if (archive_read_open_filename(archive, tar, 1 << 16) != ARCHIVE_OK) {
    st = np_error(NP_ERR_IO, "%s: %s", tar, archive_error_string(archive));
    goto out;
  }
  while (archive_read_next_header(archive, &entry) == ARCHIVE_OK) {
    const char *path = archive_entry_pathname(entry), *slash = strrchr(path, '/');
    if (strcmp(slash ? slash + 1 : path, file) != 0) continue;
    *size = (size_t)archive_entry_size(entry);
    *bytes = malloc(*size + 1);
    st = NP_OK;
    if (!*bytes || archive_read_data(archive, *bytes, *size) != (la_ssize_t)*size)
      st = np_error(NP_ERR_IO, "%s: cannot read %s", tar, file);
    break;
  }
out:
  archive_read_free(archive);
  return st;
}

/* From images/ of the case, else from the tar of the data that lies beside the cases, else from the shared one. */
static np_status find_image(const char *folder, const char *file, char **bytes, size_t *size) {
  char *images = np_path_join(folder, "images"), *path = np_path_join(images, file);
  char *tar = np_path_join(folder, "../../data/imagenet-sample/images.tar");
  struct stat about;
  np_status st;
  if (stat(images, &about) == 0) st = np_file_read(path, (size_t)1 << 30, bytes, size);
  else if (stat(tar, &about) == 0) st = read_from_tar(tar, file, bytes, size);
  else st = read_from_tar(NP_SHARED_DIR "/data/imagenet-sample/images.tar", file, bytes, size);
  free(images);
  free(path);
  free(tar);
  return st;
}

/* ---- comparing
 * ------------------------------------------------------------------------------------------------------- */

static const np_tensor *expected(const sample *work, const char *name, np_dtype type) {
  char *key = np_format("%s.%s", work->file, name);
  const np_tensor *tensor = np_safetensors_find(work->expect, key);
  if (!tensor || tensor->dtype != type) {
    printf("expect.safetensors: no %s of the right type\n", key);
    tensor = NULL;
  }
  free(key);
  return tensor;
}

static int compare(const sample *work, const char *name, const np_image *got) {
  const np_tensor *want = expected(work, name, NP_U8);
  if (!want) return 1;
  const size_t count = (size_t)got->height * (size_t)got->width * (size_t)got->channels;
  if (want->bytes != count || want->shape[0] != got->height) {
    printf("%s.%s: made %d x %d x %d values, expected %zu bytes\n", work->file, name, got->height, got->width,
           got->channels, want->bytes);
    return 1;
  }
  const uint8_t *values = want->data;
  size_t equal = 0;
  int worst = 0;
  for (size_t i = 0; i < count; i++) {
    const int difference = abs(got->pixels[i] - values[i]);
    equal += difference == 0;
    if (difference > worst) worst = difference;
  }
  const double share = (double)equal / (double)count;
  const int failed = worst > MAX_DIFFERENCE || !(share >= MIN_EQUAL);
  if (worst > 0)
    printf("%s.%s: %s, largest difference %d, %.4f%% equal\n", work->file, name, failed ? "FAILED" : "close", worst,
           100 * share);
  return failed;
}

static int compare_sum(const sample *work) {
  const np_tensor *want = expected(work, "decoded_sum", NP_I64);
  const np_image *image = &work->decoded;
  if (!want || want->bytes != (size_t)image->channels * sizeof(int64_t)) return 1;
  const size_t pixels = (size_t)image->height * (size_t)image->width;
  int failed = 0;
  for (int c = 0; c < image->channels; c++) {
    int64_t sum = 0, value;
    for (size_t i = 0; i < pixels; i++) sum += image->pixels[i * (size_t)image->channels + (size_t)c];
    memcpy(&value, (const char *)want->data + (size_t)c * sizeof value, sizeof value);
    if (sum == value) continue;
    printf("%s.decoded_sum: channel %d sums to %lld, expected %lld\n", work->file, c, (long long)sum, (long long)value);
    failed = 1;
  }
  return failed;
}

/* ---- the transforms
 * -------------------------------------------------------------------------------------------------- */

static np_image *make(sample *work, const char *name) {
  if (work->made_count == MAX_MADE) return NULL;
  work->made[work->made_count].name = name;
  return &work->made[work->made_count++].image;
}

static int run_crop(sample *work, const cJSON *crop, int height, int width) {
  static const char *const names[] = {"nearest", "bilinear", "bicubic"};
  static const np_interpolation hows[] = {NP_NEAREST, NP_BILINEAR, NP_BICUBIC};
  const char *name = text_of(crop, "interpolation");
  int how = 0;
  while (how < 3 && strcmp(names[how], name) != 0) how++;
  np_image *out = make(work, name);
  if (how == 3 || !out) {
    printf("%s: interpolation \"%s\" is not known\n", work->file, name);
    return 1;
  }
  const np_box box = {.top = (int)number_of(crop, "top"),
                      .left = (int)number_of(crop, "left"),
                      .height = (int)number_of(crop, "height"),
                      .width = (int)number_of(crop, "width")};
  if (np_image_resize(&work->decoded, box, height, width, hows[how], out) != NP_OK) return complain();
  if (cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(crop, "hflip"))) np_image_flip(out);
  return compare(work, name, out);
}

static int run_jitter(sample *work, const cJSON *json) {
  static const char *const names[4] = {"brightness", "contrast", "saturation", "hue"};
  np_jitter jitter = {.brightness = number_of(json, "brightness"),
                      .contrast = number_of(json, "contrast"),
                      .saturation = number_of(json, "saturation"),
                      .hue = number_of(json, "hue")};
  const cJSON *order = cJSON_GetObjectItemCaseSensitive(json, "order");
  for (int i = 0; i < 4; i++) {
    const char *name = cJSON_GetStringValue(cJSON_GetArrayItem(order, i));
    jitter.order[i] = 0;
    while (name && jitter.order[i] < 4 && strcmp(names[jitter.order[i]], name) != 0) jitter.order[i]++;
    if (!name) jitter.order[i] = 4;
  }
  const char *source = text_of(json, "applied_to");
  for (int i = 0; i < work->made_count; i++) {
    if (strcmp(work->made[i].name, source) != 0) continue;
    np_image *image = &work->made[i].image; /* already compared: may be changed */
    if (np_image_jitter(image, &jitter) != NP_OK) return complain();
    return compare(work, "jitter", image);
  }
  printf("%s: jitter applies to \"%s\", which was not made\n", work->file, source);
  return 1;
}

static int run_image(const char *folder, const cJSON *json, const np_safetensors *expect, int height, int width) {
  sample work = {.folder = folder, .file = text_of(json, "file"), .expect = expect};
  char *bytes = NULL;
  size_t size = 0;
  int failed = 1;
  if (find_image(folder, work.file, &bytes, &size) != NP_OK ||
      np_image_decode(bytes, size, work.file, 3, MAX_PIXELS, &work.decoded) != NP_OK) {
    complain();
    goto out;
  }
  failed = compare_sum(&work);
  np_image *val = make(&work, "val");
  if (np_image_eval_crop(&work.decoded, height, width, val) != NP_OK) failed |= complain();
  else failed |= compare(&work, "val", val);
  const cJSON *crop, *jitter = cJSON_GetObjectItemCaseSensitive(json, "jitter");
  cJSON_ArrayForEach(crop, cJSON_GetObjectItemCaseSensitive(json, "crops")) failed |=
      run_crop(&work, crop, height, width);
  if (!failed && cJSON_IsObject(jitter)) failed |= run_jitter(&work, jitter);
out:
  for (int i = 0; i < work.made_count; i++) np_image_free(&work.made[i].image);
  np_image_free(&work.decoded);
  free(bytes);
  return failed;
}

int golden_transforms(const char *folder) {
  char *json_path = np_path_join(folder, "case.json"), *expect_path = np_path_join(folder, "expect.safetensors");
  char *text = NULL;
  size_t text_size = 0;
  cJSON *json = NULL;
  np_safetensors *expect = NULL;
  int failed = 1, count = 0, height, width;
  if (np_file_read(json_path, (size_t)1 << 26, &text, &text_size) != NP_OK ||
      np_safetensors_open(expect_path, &expect) != NP_OK) {
    complain();
    goto out;
  }
  json = cJSON_Parse(text);
  if (!json) {
    printf("%s: not JSON\n", json_path);
    goto out;
  }
  size_of(json, &height, &width);
  failed = 0;
  const cJSON *image;
  cJSON_ArrayForEach(image, cJSON_GetObjectItemCaseSensitive(json, "images")) {
    failed |= run_image(folder, image, expect, height, width);
    count++;
  }
  if (count == 0) {
    printf("%s: no images\n", json_path);
    failed = 1;
  }
out:
  cJSON_Delete(json);
  np_safetensors_close(expect);
  free(text);
  free(json_path);
  free(expect_path);
  return failed;
}
