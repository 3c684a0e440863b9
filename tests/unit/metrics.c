/* Metric lines across a restart, and event files read back by a reader of this test's own: framing, CRC-32C bit by bit,
 * protobuf fields by number. */
#include "unit/temp.h"

#include "train/metrics.h"
#include "train/tfevents.h"

#include <glob.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>

/* CRC-32C as its definition says (polynomial 0x1edc6f41, reflected), a bit at a time; masked as TensorFlow does. */
static uint32_t slow_crc(const uint8_t *bytes, size_t size) {
  uint32_t crc = 0xffffffffu;
  for (size_t i = 0; i < size; i++) {
    crc ^= bytes[i];
    for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
  }
  return ~crc;
}

static void crc_of_the_standard(void **state) {
  (void)state;
  /* The check value of CRC-32C (RFC 3720, appendix B.4, and every catalogue): "123456789" → 0xe3069283. */
  assert_int_equal(slow_crc((const uint8_t *)"123456789", 9), 0xe3069283u);
  uint32_t crc = 0xe3069283u, masked = ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
  assert_int_equal(np_tfevents_crc("123456789", 9), masked);
}

/* ---- a reader of events ------------------------------------------------------------------------------------------ */

typedef struct event {
  int64_t step;
  bool version, start;
  int count;
  char tags[16][32];
  float values[16];
} event;

static uint64_t varint(const uint8_t **at) {
  uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    uint8_t byte = *(*at)++;
    value |= (uint64_t)(byte & 127) << shift;
    if (byte < 128) return value;
  }
}

/* Value: tag = 1 (string), simple_value = 2 (float). */
static void parse_value(const uint8_t *at, const uint8_t *end, event *out) {
  while (at < end) {
    uint64_t key = varint(&at);
    if (key == (1 << 3 | 2)) {
      size_t n = varint(&at);
      memcpy(out->tags[out->count], at, n);
      at += n;
    } else {
      assert_int_equal(key, 2 << 3 | 5);
      memcpy(&out->values[out->count], at, sizeof(float));
      at += sizeof(float);
    }
  }
  out->count++;
}

/* Event: wall_time = 1 (double), step = 2, file_version = 3, summary = 5 {value = 1}, session_log = 7 {status = 1}. */
static void parse_event(const uint8_t *at, size_t size, event *out) {
  const uint8_t *end = at + size;
  *out = (event){0};
  while (at < end) {
    uint64_t key = varint(&at);
    if (key == (1 << 3 | 1)) at += sizeof(double);
    else if (key == (2 << 3 | 0)) out->step = (int64_t)varint(&at);
    else {
      size_t n = varint(&at);
      const uint8_t *inner = at;
      at += n;
      if (key == (3 << 3 | 2)) out->version = n == 13 && !memcmp(inner, "brain.Event:2", 13);
      else if (key == (7 << 3 | 2)) out->start = n == 2 && inner[0] == (1 << 3 | 0) && inner[1] == 1;
      else {
        assert_int_equal(key, 5 << 3 | 2);
        while (inner < at) {
          assert_int_equal(varint(&inner), 1 << 3 | 2);
          size_t length = varint(&inner);
          parse_value(inner, inner + length, out);
          inner += length;
        }
      }
    }
  }
}

static int read_events(const char *path, event *events, int room) {
  char *bytes;
  size_t size;
  int count = 0;
  assert_ok(np_file_read(path, 1 << 20, &bytes, &size));
  for (size_t at = 0; at < size;) {
    uint64_t length;
    uint32_t crc;
    const uint8_t *record = (const uint8_t *)bytes + at;
    memcpy(&length, record, 8);
    memcpy(&crc, record + 8, 4);
    assert_int_equal(crc, np_tfevents_crc(record, 8));
    assert_true(at + 12 + length + 4 <= size);
    memcpy(&crc, record + 12 + length, 4);
    assert_int_equal(crc, np_tfevents_crc(record + 12, length));
    assert_true(count < room);
    parse_event(record + 12, length, &events[count++]);
    at += 12 + length + 4;
  }
  free(bytes);
  return count;
}

static void events_read_back(void **state) {
  event events[8];
  char *pattern = np_path_join(*state, "events.out.tfevents.*");
  np_tfevents *writer;
  glob_t found;
  const np_scalar scalars[] = {{"train/loss", 1.5}, {"train/lr", 0.25}};
  assert_ok(np_tfevents_open(*state, 300, &writer));
  assert_ok(np_tfevents_put(writer, 301, scalars, 2));
  assert_ok(np_tfevents_put(writer, 302, scalars + 1, 1));
  np_tfevents_close(writer);
  assert_int_equal(glob(pattern, 0, NULL, &found), 0);
  assert_int_equal(found.gl_pathc, 1);
  assert_int_equal(read_events(found.gl_pathv[0], events, 8), 4);
  assert_true(events[0].version);
  assert_true(events[1].start && events[1].step == 301);
  assert_int_equal(events[2].step, 301);
  assert_int_equal(events[2].count, 2);
  assert_string_equal(events[2].tags[0], "train/loss");
  assert_string_equal(events[2].tags[1], "train/lr");
  assert_true(events[2].values[0] == 1.5f && events[2].values[1] == 0.25f);
  assert_true(events[3].step == 302 && events[3].count == 1);
  globfree(&found);
  free(pattern);
}

/* ---- lines ------------------------------------------------------------------------------------------------------- */

static void put(np_metrics *metrics, int64_t step, double loss) {
  np_metric metric = {.step = step, .loss = loss, .lr = 1e-3, .grad_norm = 0.375, .bad_images = 3, .epoch = 0.5};
  assert_ok(np_metrics_put(metrics, &metric));
}

static void restart_drops_later_lines(void **state) {
  np_metrics *metrics;
  np_metric *lines;
  int count;
  char *path = np_path_join(*state, "metrics.jsonl");
  assert_ok(np_metrics_open(*state, 0, &metrics));
  for (int64_t step = 10; step <= 50; step += 10) put(metrics, step, (double)step);
  np_metrics_close(metrics);
  FILE *file = fopen(path, "ab"); /* a kill in the middle of a line */
  fputs("{\"step\":60,\"lo", file);
  fclose(file);
  assert_ok(np_metrics_open(*state, 30, &metrics));
  put(metrics, 40, -4);
  np_metrics_close(metrics);
  assert_ok(np_metrics_read(*state, &lines, &count));
  assert_int_equal(count, 4);
  for (int i = 0; i < 3; i++) assert_true(lines[i].step == 10 * (i + 1) && lines[i].loss == 10 * (i + 1));
  assert_true(lines[3].step == 40 && lines[3].loss == -4 && lines[3].grad_norm == 0.375);
  assert_true(lines[3].bad_images == 3 && lines[3].epoch == 0.5);
  free(lines);
  free(path);
}

static void not_a_number_is_null(void **state) {
  np_metrics *metrics;
  np_metric *lines;
  char *text, *path = np_path_join(*state, "metrics.jsonl");
  size_t size;
  int count;
  assert_ok(np_metrics_open(*state, 0, &metrics));
  put(metrics, 1, NAN);
  put(metrics, 2, INFINITY);
  np_metrics_close(metrics);
  assert_ok(np_file_read(path, 1 << 20, &text, &size));
  assert_non_null(strstr(text, "\"loss\":null"));
  assert_ok(np_metrics_read(*state, &lines, &count));
  assert_int_equal(count, 2);
  assert_true(isnan(lines[0].loss) && isnan(lines[1].loss));
  free(lines);
  free(text);
  free(path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(crc_of_the_standard),
      cmocka_unit_test_setup_teardown(events_read_back, temp_setup, temp_teardown),
      cmocka_unit_test_setup_teardown(restart_drops_later_lines, temp_setup, temp_teardown),
      cmocka_unit_test_setup_teardown(not_a_number_is_null, temp_setup, temp_teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
