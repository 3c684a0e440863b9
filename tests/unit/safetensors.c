/* safetensors: round trip, every kind of corruption, truncation anywhere, a full disk. */
#include "util/safetensors.h"
#include "unit/temp.h"

#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

/* A file in memory: the length, the header text, `data_bytes` bytes 0, 1, 2, … */
static size_t build(unsigned char *out, const char *header, size_t data_bytes) {
  size_t length = strlen(header);
  for (int i = 0; i < 8; i++) out[i] = (unsigned char)((uint64_t)length >> (8 * i));
  memcpy(out + 8, header, length);
  for (size_t i = 0; i < data_bytes; i++) out[8 + length + i] = (unsigned char)i;
  return 8 + length + data_bytes;
}

static np_status parse(const char *header, size_t data_bytes, np_safetensors **out) {
  static unsigned char bytes[1 << 16];
  return np_safetensors_parse(bytes, build(bytes, header, data_bytes), "in memory", out);
}

static void test_parse(void **state) {
  (void)state;
  np_safetensors *file;
  /* the second tensor in the file stands first in the header; an empty tensor between; a scalar; spaces behind */
  assert_ok(parse("{\"b\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[3,11]},"
                  "\"__metadata__\":{\"format\":\"pt\",\"\\u00e9\":\"\"},"
                  "\"empty\":{\"dtype\":\"I64\",\"shape\":[0,7],\"data_offsets\":[3,3]},"
                  "\"a\":{\"shape\":[3],\"data_offsets\":[0,3],\"dtype\":\"U8\"},"
                  "\"s\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[11,13]}}  \n",
                  13, &file));
  const char *const order[] = {"a", "empty", "b", "s"};
  assert_int_equal(np_safetensors_count(file), 4);
  for (int i = 0; i < 4; i++) assert_string_equal(np_safetensors_at(file, i)->name, order[i]);
  const np_tensor *b = np_safetensors_find(file, "b");
  assert_ptr_equal(b, np_safetensors_at(file, 2));
  assert_int_equal(b->dtype, NP_F32);
  assert_int_equal(b->ndim, 2);
  assert_int_equal(b->shape[0], 2);
  assert_int_equal(b->shape[1], 1);
  assert_int_equal(b->bytes, 8);
  assert_int_equal(*(const unsigned char *)b->data, 3);
  assert_int_equal(np_tensor_count(np_safetensors_find(file, "empty")), 0);
  assert_int_equal(np_tensor_count(np_safetensors_find(file, "s")), 1);
  assert_null(np_safetensors_find(file, "c"));
  assert_null(np_safetensors_find(file, "__metadata__"));
  assert_string_equal(np_safetensors_metadata(file, "format"), "pt");
  assert_string_equal(np_safetensors_metadata(file, "\xc3\xa9"), "");
  assert_null(np_safetensors_metadata(file, "Format"));
  np_safetensors_close(file);
  assert_ok(parse("{}", 0, &file));
  assert_int_equal(np_safetensors_count(file), 0);
  assert_null(np_safetensors_find(file, "a"));
  assert_null(np_safetensors_metadata(file, "a"));
  np_safetensors_close(file);
  np_safetensors_close(NULL);
}

#define TENSOR(dtype, shape, offsets) "{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void test_corrupt(void **state) {
  (void)state;
  const struct {
    size_t data_bytes;
    const char *header, *message;
  } cases[] = {
      {0, "", "not a JSON object"},
      {0, "[]", "not a JSON object"},
      {0, "{\"a\":", "not a JSON object"},
      {0, "{} x", "behind the header"},
      {0, "{}{}", "behind the header"},
      {4, "{}", "the tensors have 0 bytes"},
      {4, "{\"a\":3}", "exactly the keys"},
      {4, "{\"a\":[]}", "exactly the keys"},
      {4, "{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", "exactly the keys"},
      {4, "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", "exactly the keys"},
      {4, "{\"a\":{\"dtype\":\"F32\",\"x\":1,\"shape\":[1],\"data_offsets\":[0,4]}}", "exactly the keys"},
      {4, "{\"a\":" TENSOR("\"F33\"", "[1]", "[0,4]") "}", "unknown type F33"},
      {4, "{\"a\":" TENSOR("7", "[1]", "[0,4]") "}", "unknown type"},
      {4, "{\"a\":" TENSOR("\"F32\"", "1", "[0,4]") "}", "shape"},
      {4, "{\"a\":" TENSOR("\"F32\"", "[-1]", "[0,4]") "}", "shape"},
      {4, "{\"a\":" TENSOR("\"F32\"", "[1.5]", "[0,4]") "}", "shape"},
      {4, "{\"a\":" TENSOR("\"F32\"", "[1e300]", "[0,4]") "}", "shape"},
      {4, "{\"a\":" TENSOR("\"F32\"", "[\"1\"]", "[0,4]") "}", "shape"},
      {4, "{\"a\":" TENSOR("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", "at most 8"},
      {4, "{\"a\":" TENSOR("\"F32\"", "[4294967296,4294967296]", "[0,4]") "}", "too large"},
      {0, "{\"a\":" TENSOR("\"U8\"", "[9007199254740992,1024,0]", "[0,0]") "}", "too large"},
      {4, "{\"a\":" TENSOR("\"F32\"", "[2]", "[0,4]") "}", "need 8"},
      {4, "{\"a\":" TENSOR("\"F32\"", "[1]", "[0,8]") "}", "truncated"},
      {4, "{\"a\":" TENSOR("\"F32\"", "[1]", "[4,0]") "}", "rising"},
      {4, "{\"a\":" TENSOR("\"F32\"", "[1]", "[0]") "}", "two whole numbers"},
      {4, "{\"a\":" TENSOR("\"F32\"", "[1]", "[0,4,4]") "}", "two whole numbers"},
      {4, "{\"a\":" TENSOR("\"F32\"", "[1]", "[-4,0]") "}", "two whole numbers"},
      {4, "{\"a\":" TENSOR("\"F32\"", "[1]", "{}") "}", "two whole numbers"},
      {8, "{\"a\":" TENSOR("\"F32\"", "[1]", "[0,4]") "}", "the file holds 8"},
      {8, "{\"a\":" TENSOR("\"F32\"", "[1]", "[4,8]") "}", "hole"},
      {9, "{\"a\":" TENSOR("\"F32\"", "[1]", "[0,4]") ",\"b\":" TENSOR("\"F32\"", "[1]", "[5,9]") "}", "hole"},
      {7, "{\"a\":" TENSOR("\"F32\"", "[1]", "[0,4]") ",\"b\":" TENSOR("\"F32\"", "[1]", "[3,7]") "}", "overlap"},
      {4, "{\"a\":" TENSOR("\"F32\"", "[1]", "[0,4]") ",\"b\":" TENSOR("\"F32\"", "[1]", "[0,4]") "}", "overlap"},
      {8, "{\"a\":" TENSOR("\"F32\"", "[1]", "[0,4]") ",\"a\":" TENSOR("\"F32\"", "[1]", "[4,8]") "}", "named 'a'"},
      {0, "{\"__metadata__\":[]}", "not a set of strings"},
      {0, "{\"__metadata__\":{\"a\":1}}", "not a set of strings"},
      {0, "{\"__metadata__\":{},\"__metadata__\":{}}", "twice"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    np_safetensors *file;
    if (parse(cases[i].header, cases[i].data_bytes, &file) == NP_OK) fail_msg("accepted: %s", cases[i].header);
    assert_error(parse(cases[i].header, cases[i].data_bytes, &file), NP_ERR_FORMAT, cases[i].message);
    assert_non_null(strstr(np_error_message(), "in memory"));
    assert_null(file);
  }
}

static void test_length_field(void **state) {
  (void)state;
  unsigned char bytes[64];
  np_safetensors *file;
  size_t size = build(bytes, "{}", 0);
  bytes[0] = 3;
  assert_error(np_safetensors_parse(bytes, size, "m", &file), NP_ERR_FORMAT, "truncated");
  memset(bytes, 0xff, 8);
  assert_error(np_safetensors_parse(bytes, size, "m", &file), NP_ERR_FORMAT, "over the limit");
  assert_error(np_safetensors_parse(bytes, 7, "m", &file), NP_ERR_FORMAT, "too short");
  assert_error(np_safetensors_parse(bytes, 0, "m", &file), NP_ERR_FORMAT, "too short");
}

static const float floats[6] = {0, -1.5f, 3e38f, 1e-40f, INFINITY, 7};
static const uint8_t octets[3] = {1, 2, 255};
static const np_tensor sample[] = {
    {.name = "z \"quoted\" \xc3\xa9",
     .dtype = NP_F32,
     .ndim = 2,
     .shape = {2, 3},
     .data = floats,
     .bytes = sizeof floats},
    {.name = "bytes", .dtype = NP_U8, .ndim = 1, .shape = {3}, .data = octets, .bytes = sizeof octets},
    {.name = "none", .dtype = NP_F64, .ndim = 1, .shape = {0}, .data = NULL, .bytes = 0},
    {.name = "scalar", .dtype = NP_F32, .ndim = 0, .data = floats + 1, .bytes = 4},
};
enum { SAMPLES = sizeof sample / sizeof *sample };
static const np_metadata notes[] = {{"format", "pt"}, {"line", "a\n\"b\""}};

static void test_round_trip(void **state) {
  char *path = np_path_join(*state, "a.safetensors"), *bytes;
  size_t size;
  np_safetensors *file;
  assert_ok(np_safetensors_write(path, sample, SAMPLES, notes, 2));
  assert_ok(np_file_read(path, 1 << 16, &bytes, &size));
  uint64_t length;
  memcpy(&length, bytes, 8);
  assert_int_equal((8 + length) % 64, 0);
  assert_int_equal(size, 8 + length + sizeof floats + sizeof octets + 4);
  free(bytes);
  assert_ok(np_safetensors_open(path, &file));
  assert_int_equal(np_safetensors_count(file), SAMPLES);
  for (int i = 0; i < SAMPLES; i++) {
    const np_tensor *t = np_safetensors_find(file, sample[i].name);
    assert_non_null(t);
    assert_ptr_equal(t, np_safetensors_at(file, i)); /* in the order given */
    assert_int_equal(t->dtype, sample[i].dtype);
    assert_int_equal(t->ndim, sample[i].ndim);
    for (int d = 0; d < t->ndim; d++) assert_int_equal(t->shape[d], sample[i].shape[d]);
    assert_int_equal(t->bytes, sample[i].bytes);
    if (t->bytes) assert_memory_equal(t->data, sample[i].data, t->bytes);
  }
  assert_string_equal(np_safetensors_metadata(file, "line"), notes[1].value);
  np_safetensors_close(file);
  assert_ok(np_safetensors_write(path, NULL, 0, NULL, 0));
  assert_ok(np_safetensors_open(path, &file));
  assert_int_equal(np_safetensors_count(file), 0);
  np_safetensors_close(file);
  free(path);
}

static void test_writer_refuses(void **state) {
  char *path = np_path_join(*state, "a.safetensors");
  np_tensor two[2] = {sample[0], sample[0]};
  assert_error(np_safetensors_write(path, two, 2, NULL, 0), NP_ERR_ARGUMENT, "two tensors");
  two[0].bytes--;
  assert_error(np_safetensors_write(path, two, 1, NULL, 0), NP_ERR_ARGUMENT, "its shape and type");
  two[1].name = "__metadata__";
  assert_error(np_safetensors_write(path, two + 1, 1, NULL, 0), NP_ERR_ARGUMENT, "not a name");
  assert_int_not_equal(access(path, F_OK), 0);
  assert_error(np_safetensors_write("/nowhere/a", sample, 1, NULL, 0), NP_ERR_IO, "/nowhere/a");
  free(path);
}

/* Cut after any byte, a file is refused; and never read past the cut (the copy has exactly that size: ASan watches). */
static void test_truncated_anywhere(void **state) {
  char *path = np_path_join(*state, "a.safetensors"), *bytes;
  size_t size;
  np_safetensors *file;
  assert_ok(np_safetensors_write(path, sample, SAMPLES, notes, 2));
  assert_ok(np_file_read(path, 1 << 16, &bytes, &size));
  for (size_t cut = 0; cut < size; cut++) {
    char *part = malloc(cut + !cut);
    memcpy(part, bytes, cut);
    if (np_safetensors_parse(part, cut, "part", &file) != NP_ERR_FORMAT)
      fail_msg("accepted %zu of %zu bytes", cut, size);
    free(part);
    assert_ok(np_file_write_unsynced(path, bytes, cut));
    assert_error(np_safetensors_open(path, &file), NP_ERR_FORMAT, path);
  }
  free(bytes);
  free(path);
}

/* Files that the format's own library wrote. */
static void test_foreign(void **state) {
  (void)state;
  np_safetensors *file;
  const char *path = NP_SHARED_DIR "/golden/probe-square/weights.safetensors";
  if (access(path, R_OK) != 0) {
    print_message("no %s: skipped\n", path);
    skip();
  }
  assert_ok(np_safetensors_open(path, &file));
  const np_tensor *t = np_safetensors_find(file, "trunk.post_trunk_norm.weight");
  assert_non_null(t);
  assert_int_equal(t->dtype, NP_F32);
  assert_int_equal(t->ndim, 1);
  assert_int_equal(t->bytes, 4 * t->shape[0]);
  np_safetensors_close(file);
}

static void test_open_fails(void **state) {
  np_safetensors *file;
  assert_error(np_safetensors_open("/nowhere/a", &file), NP_ERR_IO, "/nowhere/a");
  assert_null(file);
  assert_error(np_safetensors_open(*state, &file), NP_ERR_IO, "not a regular file");
  assert_null(file);
}

static void test_full_disk(void **state) {
  char *path = np_path_join(*state, "a.safetensors"), *temporary = np_path_join(*state, ".a.safetensors.tmp");
  static float large[1 << 16];
  const np_tensor big = {
      .name = "big", .dtype = NP_F32, .ndim = 1, .shape = {1 << 16}, .data = large, .bytes = sizeof large};
  struct rlimit old, small;
  np_safetensors *file;
  assert_ok(np_safetensors_write(path, sample, SAMPLES, NULL, 0));
  void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
  for (rlim_t limit = 0; limit < 4000; limit += 700) {
    small = old;
    small.rlim_cur = limit;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    np_status st = np_safetensors_write(path, &big, 1, NULL, 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(st, NP_ERR_IO);
    assert_int_not_equal(access(temporary, F_OK), 0);
  }
  signal(SIGXFSZ, handler);
  assert_ok(np_safetensors_open(path, &file)); /* the old file, whole */
  assert_int_equal(np_safetensors_count(file), SAMPLES);
  np_safetensors_close(file);
  free(path);
  free(temporary);
}

/* Bit patterns and their values are those of IEEE 754 binary16 and of bfloat16, by the definition. */
static void test_to_f32(void **state) {
  (void)state;
  unsigned char raw[40];
  float out[8];
  const uint16_t half[] = {0x0000, 0x8000, 0x3c00, 0xc000, 0x7bff, 0x0001, 0x03ff, 0xfc00};
  const float half_values[] = {0, -0.0f, 1, -2, 65504, 0x1p-24f, 0x1.ff8p-15f, -INFINITY};
  np_tensor t = {.name = "t", .dtype = NP_F16, .ndim = 1, .shape = {8}, .data = raw + 1, .bytes = 16};
  memcpy(raw + 1, half, sizeof half); /* unaligned on purpose */
  assert_ok(np_tensor_to_f32(&t, out, 8));
  assert_memory_equal(out, half_values, sizeof half_values);
  const uint16_t nan = 0x7e01, brain[] = {0x3f80, 0xc040, 0x0001};
  const float brain_values[] = {1, -3, 0x1p-133f};
  memcpy(raw + 1, &nan, 2);
  assert_ok(np_tensor_to_f32(&t, out, 8));
  assert_true(isnan(out[0]));
  t.dtype = NP_BF16, t.shape[0] = 3;
  memcpy(raw + 1, brain, sizeof brain);
  assert_ok(np_tensor_to_f32(&t, out, 3));
  assert_memory_equal(out, brain_values, sizeof brain_values);
  const double doubles[] = {0.1, -1e-300, 2};
  const float rounded[] = {0.1f, -0.0f, 2};
  t.dtype = NP_F64;
  memcpy(raw + 1, doubles, sizeof doubles);
  assert_ok(np_tensor_to_f32(&t, out, 3));
  assert_memory_equal(out, rounded, sizeof rounded);
  t.dtype = NP_F32;
  memcpy(raw + 1, floats, 12);
  assert_ok(np_tensor_to_f32(&t, out, 3));
  assert_memory_equal(out, floats, 12);
  assert_error(np_tensor_to_f32(&t, out, 4), NP_ERR_FORMAT, "3 values where 4");
  t.dtype = NP_I32;
  assert_error(np_tensor_to_f32(&t, out, 3), NP_ERR_FORMAT, "type I32");
}

#define IN_TEMP(test) cmocka_unit_test_setup_teardown(test, temp_setup, temp_teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_parse),  cmocka_unit_test(test_corrupt),   cmocka_unit_test(test_length_field),
      cmocka_unit_test(test_to_f32), cmocka_unit_test(test_foreign),   IN_TEMP(test_round_trip),
      IN_TEMP(test_writer_refuses),  IN_TEMP(test_truncated_anywhere), IN_TEMP(test_open_fails),
      IN_TEMP(test_full_disk),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
