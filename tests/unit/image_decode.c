/* Decoding: Pillow's bits for every kind of PNG and JPEG; refusal of everything damaged, truncated or too large. */
#include "image/image.h"
#include "unit/pillow.h"
#include "util/file.h"

#include <unistd.h>

static const int64_t LIMIT = 1 << 20;

/* The bytes of a file whose end a sanitizer guards. */
static np_status decode_copy(const void *bytes, size_t size, int channels, int64_t limit, np_image *out) {
  uint8_t *copy = malloc(size ? size : 1);
  assert_non_null(copy);
  memcpy(copy, bytes, size);
  const np_status st = np_image_decode(copy, size, "test", channels, limit, out);
  free(copy);
  return st;
}

static void assert_refused(const void *bytes, size_t size, int64_t limit, const char *why) {
  for (int channels = 1; channels <= 3; channels += 2) {
    np_image image;
    const np_status st = decode_copy(bytes, size, channels, limit, &image);
    if (st != NP_ERR_FORMAT) fail_msg("%s: status %d, expected a format error", why, st);
    assert_null(image.pixels);
    assert_non_null(strstr(np_error_message(), "test: "));
  }
}

/* Calls `visit` with every "decode.NAME.file" of the fixtures. */
static int each_file(void (*visit)(const char *name, const np_tensor *file)) {
  int count = 0;
  for (int i = 0; i < np_safetensors_count(pillow); i++) {
    const np_tensor *tensor = np_safetensors_at(pillow, i);
    const char *end = tensor->name + strlen(tensor->name) - strlen(".file");
    if (strncmp(tensor->name, "decode.", 7) != 0 || strcmp(end, ".file") != 0) continue;
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)(end - tensor->name), tensor->name);
    visit(name, tensor);
    count++;
  }
  return count;
}

static void check_pixels(const char *name, const np_tensor *file) {
  for (int channels = 1; channels <= 3; channels += 2) {
    char key[80];
    np_image image;
    snprintf(key, sizeof key, "%s.%s", name, channels == 3 ? "RGB" : "L");
    if (decode_copy(file->data, file->bytes, channels, LIMIT, &image) != NP_OK)
      fail_msg("%s: %s", key, np_error_message());
    assert_image(&image, np_safetensors_find(pillow, key), key);
    np_image_free(&image);
  }
}

static void equals_pillow(void **state) {
  (void)state;
  assert_int_equal(each_file(check_pixels), 43);
}

/* Any cut is refused, or, where only bytes behind the pixels are gone, changes nothing. */
static void check_cuts(const char *name, const np_tensor *file) {
  char key[80];
  snprintf(key, sizeof key, "%s.RGB", name);
  const size_t tail = strstr(name, ".png") ? 12 : 2; /* IEND; EOI */
  for (size_t size = 0; size < file->bytes; size += size + 40 < file->bytes ? 7 : 1) {
    np_image image;
    const np_status st = decode_copy(file->data, size, 3, LIMIT, &image);
    if (st == NP_OK) {
      if (size + tail < file->bytes) fail_msg("%s: cut to %zu of %zu bytes and accepted", name, size, file->bytes);
      assert_image(&image, np_safetensors_find(pillow, key), key);
    } else {
      assert_int_equal(st, NP_ERR_FORMAT);
    }
    np_image_free(&image);
  }
}

static void truncated(void **state) {
  (void)state;
  assert_true(each_file(check_cuts) > 0);
}

/* One byte changed anywhere: an image or a refusal, and never a crash or a leak. PNG has checksums: always a refusal
 * within its first chunk. */
static void check_changes(const char *name, const np_tensor *file) {
  uint8_t *bytes = malloc(file->bytes);
  assert_non_null(bytes);
  memcpy(bytes, file->data, file->bytes);
  for (size_t i = 0; i < file->bytes; i++) {
    np_image image;
    bytes[i] ^= (uint8_t)(1u << i % 8);
    const np_status st = decode_copy(bytes, file->bytes, 3, LIMIT, &image);
    assert_true(st == NP_OK || st == NP_ERR_FORMAT);
    if (strstr(name, ".png") && i < 33) assert_int_equal(st, NP_ERR_FORMAT);
    np_image_free(&image);
    bytes[i] ^= (uint8_t)(1u << i % 8);
  }
  free(bytes);
}

static void changed(void **state) {
  (void)state;
  assert_true(each_file(check_changes) > 0);
}

static void garbage(void **state) {
  (void)state;
  uint8_t bytes[256];
  uint32_t noise = 5;
  for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)((noise = noise * 1664525u + 1013904223u) >> 24);
  assert_refused("", 0, LIMIT, "nothing");
  assert_refused("GIF89a", 6, LIMIT, "GIF");
  assert_refused(bytes, sizeof bytes, LIMIT, "noise");
  memcpy(bytes, "\x89PNG\r\n\x1a\n", 8);
  assert_refused(bytes, 8, LIMIT, "a PNG signature");
  assert_refused(bytes, sizeof bytes, LIMIT, "noise behind a PNG signature");
  memcpy(bytes, "\xff\xd8\xff", 3);
  assert_refused(bytes, 3, LIMIT, "a JPEG mark");
  assert_refused(bytes, sizeof bytes, LIMIT, "noise behind a JPEG mark");
}

static void wrong_channels(void **state) {
  (void)state;
  np_image image;
  assert_int_equal(np_image_decode("x", 1, "test", 4, LIMIT, &image), NP_ERR_ARGUMENT);
}

/* 2^31 - 1 pixels a side in 33 bytes: refused for its size, before memory is taken. */
static void huge(void **state) {
  (void)state;
  static const uint8_t png[] = {0x89, 'P',  'N', 'G', '\r', '\n', 0x1a, '\n', 0,    0,    0,
                                13,   'I',  'H', 'D', 'R',  0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff,
                                0xff, 0xff, 8,   6,   0,    0,    0,    0xea, 0x62, 0x40, 0xdd};
  static const uint8_t jpeg[] = {0xff, 0xd8, 0xff, 0xc0, 0, 11, 8, 0xff, 0xdc, 0xff, 0xdc, 1, 1, 0x11, 0};
  assert_refused(png, sizeof png, LIMIT, "a huge PNG");
  assert_refused(jpeg, sizeof jpeg, LIMIT, "a huge JPEG");
}

static void limit_is_exact(void **state) {
  (void)state;
  const np_tensor *png = np_safetensors_find(pillow, "decode.rgb-8.png.file");
  const np_tensor *jpeg = np_safetensors_find(pillow, "decode.ycc-420.jpg.file");
  np_image image;
  assert_int_equal(decode_copy(png->data, png->bytes, 3, 11 * 9, &image), NP_OK);
  np_image_free(&image);
  assert_refused(png->data, png->bytes, 11 * 9 - 1, "one pixel too many");
  assert_non_null(strstr(np_error_message(), "11 x 9"));
  assert_int_equal(decode_copy(jpeg->data, jpeg->bytes, 3, 21 * 19, &image), NP_OK);
  np_image_free(&image);
  assert_refused(jpeg->data, jpeg->bytes, 21 * 19 - 1, "one pixel too many");
}

/* The first scan again and again: a small file that would cost a pass over the image for each. */
static void scan_bomb(void **state) {
  (void)state;
  const np_tensor *file = np_safetensors_find(pillow, "decode.grey-progressive.jpg.file");
  const uint8_t *bytes = file->data;
  size_t first = 0, next;
  while (bytes[first] != 0xff || bytes[first + 1] != 0xda) first++;
  for (next = first + 2; bytes[next] != 0xff || bytes[next + 1] == 0;) next++;
  const size_t scan = next - first;
  for (size_t times = 100; times <= 600; times += 500) {
    const size_t size = file->bytes + (times - 1) * scan;
    uint8_t *bomb = malloc(size);
    assert_non_null(bomb);
    memcpy(bomb, bytes, first);
    for (size_t i = 0; i < times; i++) memcpy(bomb + first + i * scan, bytes + first, scan);
    memcpy(bomb + first + times * scan, bytes + next, file->bytes - next);
    np_image image;
    assert_int_equal(decode_copy(bomb, size, 3, LIMIT, &image), times == 100 ? NP_OK : NP_ERR_FORMAT);
    if (times > 100) assert_non_null(strstr(np_error_message(), "too many scans"));
    np_image_free(&image);
    free(bomb);
  }
}

static void encode_and_read(void **state) {
  (void)state;
  char path[] = "/tmp/np-image-XXXXXX";
  const int descriptor = mkstemp(path);
  assert_true(descriptor >= 0);
  close(descriptor);
  for (int grey = 0; grey < 2; grey++) {
    np_image source = pillow_source(grey, 0, 0), back;
    assert_int_equal(np_image_write_png(path, &source), NP_OK);
    assert_int_equal(np_image_read(path, source.channels, LIMIT, &back), NP_OK);
    assert_image(&back, np_safetensors_find(pillow, grey ? "source-grey" : "source"), "written and read");
    np_image_free(&back);
    np_image_free(&source);
  }
  unlink(path);
  np_image image;
  assert_int_equal(np_image_read(path, 3, LIMIT, &image), NP_ERR_IO);
  assert_null(image.pixels);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(equals_pillow), cmocka_unit_test(truncated),       cmocka_unit_test(changed),
      cmocka_unit_test(garbage),       cmocka_unit_test(wrong_channels),  cmocka_unit_test(huge),
      cmocka_unit_test(scan_bomb),     cmocka_unit_test(encode_and_read), cmocka_unit_test(limit_is_exact),
  };
  return cmocka_run_group_tests(tests, open_pillow, close_pillow);
}
