/* Tar files as datasets. GNU tar writes them, the formats it knows; what is read must be the files' bytes. */
#include "data/dataset.h"
#include "unit/temp.h"
#include "util/philox.h"

#include <stdbool.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define D50  "dddddddddddddddddddddddddddddddddddddddddddddddddd"
#define D100 D50 D50

/* ---- making tars ---- */

/* Below the test's folder. */
static char *at(void **state, const char *name) { return np_path_join(*state, name); }

/* A file below the test's folder: `size` bytes that its name and size tell. */
static void put(void **state, const char *name, size_t size) {
  char *path = at(state, name), *slash = strrchr(path, '/');
  *slash = 0;
  assert_ok(np_folder_make(path));
  *slash = '/';
  uint8_t *bytes = malloc(size + 1);
  uint64_t seed = size;
  for (const char *c = strrchr(name, '/') + 1; *c; c++) seed = seed * 31 + (uint8_t)*c;
  np_rng rng = np_rng_make(seed, NP_PURPOSE_SYNTH, 0, 0);
  for (size_t i = 0; i < size; i++) bytes[i] = (uint8_t)np_rng_u32(&rng);
  assert_ok(np_file_write_unsynced(path, bytes, size));
  free(bytes);
  free(path);
}

/* A shell command in the test's folder. */
__attribute__((format(printf, 2, 3))) static void shell(void **state, const char *format, ...) {
  char text[2048], *command;
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  command = np_format("cd '%s' && %s", (char *)*state, text);
  if (system(command) != 0) fail_msg("failed: %s", command);
  free(command);
}

static np_status open_at(void **state, const char *name, bool labelled, np_dataset **out) {
  char *path = at(state, name);
  np_status st = np_dataset_open(path, labelled, out);
  free(path);
  return st;
}

/* The samples, by name below the test's folder, and their classes ("": none), in this order. */
static void assert_lists(void **state, const np_dataset *d, const char *const (*lines)[2], int count) {
  assert_int_equal(d->count, count);
  for (int i = 0; i < count; i++) {
    char *expected = at(state, lines[i][0]), *name = np_dataset_name(d, i);
    const int label = d->samples[i].label;
    assert_string_equal(name, expected);
    assert_string_equal(label < 0 ? "" : d->classes[label], lines[i][1]);
    free(name);
    free(expected);
  }
}

/* Each member's bytes are those of the file below `folder` that it was made from. */
static void assert_bytes(void **state, const np_dataset *d, const char *folder) {
  for (int64_t i = 0; i < d->count; i++) {
    const np_sample *s = &d->samples[i];
    char *name = np_format("%s/%s/%s", (char *)*state, folder, s->path), *expected, *bytes = malloc(s->size + 1);
    size_t size;
    assert_ok(np_file_read(name, 1 << 20, &expected, &size));
    assert_int_equal(s->size, size);
    assert_ok(np_shard_read(&d->shards[s->shard], s->offset, s->size, name, bytes));
    if (size) assert_memory_equal(bytes, expected, size);
    free(bytes);
    free(expected);
    free(name);
  }
}

/* ---- what is read ---- */

static void test_formats(void **state) {
  static const char *const short_names[] = {"a/1.png", "a/2.JPG", "a/sub/deep/3.Jpeg",      "b/4.jpeg",
                                            "b/5.png", "b/6.png", "b/" D50 "/" D50 "/7.png"};
  static const size_t sizes[] = {0, 1, 511, 512, 513, 5000, 1024};
  static const char *const long_names[] = {"c/" D100 ".png", "c/" D100 "/" D100 "/" D100 ".png",
                                           "\xc3\xa9t\xc3\xa9/\xe6\x97\xa5" D100 ".png"};
  static const struct {
    const char *format;
    bool any_length;
  } formats[] = {{"ustar", false}, {"gnu", true}, {"oldgnu", true}, {"posix", true}};
  for (int i = 0; i < 7; i++) {
    char *name = np_format("short/%s", short_names[i]);
    put(state, name, sizes[i]);
    free(name);
  }
  shell(state, "cp -r short long");
  for (int i = 0; i < 3; i++) {
    char *name = np_format("long/%s", long_names[i]);
    put(state, name, 700);
    free(name);
  }
  for (size_t f = 0; f < sizeof formats / sizeof *formats; f++) {
    const char *from = formats[f].any_length ? "long" : "short";
    np_dataset *d;
    shell(state, "tar --format=%s --sort=name -cf x.tar -C %s .", formats[f].format, from);
    assert_ok(open_at(state, "x.tar", true, &d));
    assert_int_equal(d->count, formats[f].any_length ? 10 : 7);
    assert_int_equal(d->class_count, formats[f].any_length ? 4 : 2);
    assert_bytes(state, d, from);
    if (formats[f].any_length) assert_string_equal(d->classes[3], "\xc3\xa9t\xc3\xa9");
    np_dataset_close(d);
  }
}

/* What counts as an image, in the order of the file; a name that is twice there is two samples. */
static void test_members(void **state) {
  static const char *const files[] = {"s/z.png",         "s/y.cls",      "s/x.json",  "s/.h.png",
                                      "s/.d/1.png",      "s/png",        "s/a.PNG",   "s/k.png.bak",
                                      "s/dir.png/1.jpg", "s/m/.i/2.png", "s/..w.png", "s/n/3.JPeG"};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) put(state, files[i], 10 + i);
  np_dataset *d;
  shell(state, "tar -cf x.tar -C s z.png y.cls x.json .h.png .d png a.PNG k.png.bak dir.png m ..w.png ./n && "
               "tar -rf x.tar -C s z.png");
  assert_ok(open_at(state, "x.tar", false, &d));
  const char *const lines[][2] = {{"x.tar:z.png", ""},
                                  {"x.tar:a.PNG", ""},
                                  {"x.tar:z.png", ""},
                                  {"x.tar:dir.png/1.jpg", "dir.png"},
                                  {"x.tar:n/3.JPeG", "n"}};
  assert_lists(state, d, lines, 5);
  assert_bytes(state, d, "s");
  np_dataset_close(d);
  shell(state, "tar -P -cf x.tar \"$PWD/s/z.png\" && cat x.tar x.tar >twice.tar"); /* absolute names; two archives */
  assert_ok(open_at(state, "twice.tar", true, &d));
  assert_int_equal(d->count, 2);
  assert_true(d->samples[0].path[0] != '/' && d->class_count == 1);
  np_dataset_close(d);
}

/* What WebDataset keeps beside an image: before it or behind it, over several tars; other words are errors where labels
 * are asked for, and are not looked at where not. */
static void test_numbers(void **state) {
  np_dataset *d;
  static const char *const images[] = {"s/a.png",   "s/b.jpg", "s/c.seg.png", "s/c.png",
                                       "s/n/a.png", "t/e.png", "t/f.png"};
  for (size_t i = 0; i < sizeof images / sizeof *images; i++) put(state, images[i], 10 + i);
  shell(state, "printf 3 >s/a.cls; printf '0\\n' >s/b.cls; printf 11 >s/c.cls; printf '2 ' >s/n/a.cls; "
               "printf 1 >t/e.cls; printf 1 >t/f.cls; mkdir p; "
               "tar -cf p/1.tar -C s a.png a.cls b.cls b.jpg c.seg.png c.cls c.png n/a.cls n/a.png; "
               "tar -cf p/2.tar -C t e.png e.cls f.cls f.png");
  assert_ok(open_at(state, "p", true, &d));
  const char *const lines[][2] = {{"p/1.tar:b.jpg", "0"},   {"p/2.tar:e.png", "1"}, {"p/2.tar:f.png", "1"},
                                  {"p/1.tar:n/a.png", "2"}, {"p/1.tar:a.png", "3"}, {"p/1.tar:c.seg.png", "11"},
                                  {"p/1.tar:c.png", "11"}};
  assert_lists(state, d, lines, 7);
  assert_int_equal(d->class_count, 12);
  np_dataset_close(d);
  assert_ok(open_at(state, "p", false, &d)); /* by the members' folders */
  assert_int_equal(d->class_count, 1);
  np_dataset_close(d);
  shell(state, "tar -cf x.tar -C t e.png e.cls f.png");
  assert_error(open_at(state, "x.tar", true, &d), NP_ERR_ARGUMENT, "x.tar:f.png' has no class");
  shell(state, "tar -cf x.tar -C t e.cls f.png e.png"); /* of another sample by then */
  assert_error(open_at(state, "x.tar", true, &d), NP_ERR_ARGUMENT, "x.tar:");
  static const char *const words[] = {"", "-1", "cat", "1048576", "1 2", "123456789012345678901234567890", "0x1"};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
    shell(state, "printf %%s '%s' >t/e.cls && tar -cf x.tar -C t e.png e.cls", words[i]);
    assert_error(open_at(state, "x.tar", true, &d), NP_ERR_ARGUMENT,
                 "x.tar:e.cls' does not hold the number of a class: expected 0 to 1048575");
    assert_ok(open_at(state, "x.tar", false, &d));
    np_dataset_close(d);
  }
}

/* Sorted by the bytes of the tars' paths, at any depth, and not as a walk finds them. */
static void test_order(void **state) {
  np_dataset *d;
  put(state, "s/2.png", 20);
  put(state, "s/1.png", 10);
  shell(state, "mkdir -p t/a t/B t/.h && tar -cf t/a.tar -C s 2.png 1.png && cp t/a.tar t/a/b.TAR && "
               "cp t/a.tar t/B/10.tar && cp t/a.tar t/B/9.tar && cp t/a.tar t/.h/no.tar && cp t/a.tar t/.no.tar && "
               "touch t/notes.txt && ln -s .. t/a/up");
  assert_ok(open_at(state, "t", false, &d));
  const char *const lines[][2] = {{"t/a.tar:2.png", ""},     {"t/a.tar:1.png", ""},    {"t/B/10.tar:2.png", "B"},
                                  {"t/B/10.tar:1.png", "B"}, {"t/B/9.tar:2.png", "B"}, {"t/B/9.tar:1.png", "B"},
                                  {"t/a/b.TAR:2.png", "a"},  {"t/a/b.TAR:1.png", "a"}};
  assert_lists(state, d, lines, 8);
  assert_int_equal(d->shard_count, 4);
  assert_string_equal(d->shards[2].path + strlen(*state), "/t/a.tar"); /* '.' is before '/' */
  np_dataset_close(d);
}

static void test_labels(void **state) {
  np_dataset *d;
  put(state, "s/dog/1.png", 10);
  put(state, "s/cat/2.png", 20);
  put(state, "s/cat/3.png", 20);
  put(state, "s/ca/4.png", 20);
  put(state, "s/5.png", 20);
  shell(state, "mkdir -p m/part0 m/part1 && tar --sort=name -cf m/part0/x.tar -C s dog/1.png cat && tar -cf "
               "m/part1/y.tar -C s ca dog");
  assert_ok(open_at(state, "m", true, &d)); /* folders of members win over folders of tars */
  const char *const lines[][2] = {{"m/part1/y.tar:ca/4.png", "ca"},
                                  {"m/part0/x.tar:cat/2.png", "cat"},
                                  {"m/part0/x.tar:cat/3.png", "cat"},
                                  {"m/part0/x.tar:dog/1.png", "dog"},
                                  {"m/part1/y.tar:dog/1.png", "dog"}};
  assert_lists(state, d, lines, 5);
  assert_int_equal(d->class_count, 3);
  np_dataset_close(d);
  shell(state,
        "mkdir -p f/cat/deep f/dog f/none && tar -cf f/cat/deep/1.tar -C s/cat 2.png && tar -cf f/cat/2.tar -C s/cat "
        "3.png && tar -cf f/dog/3.tar -C s/dog ./1.png");
  assert_ok(open_at(state, "f", true, &d)); /* no member has one: those of the tars, as class folders */
  const char *const flat[][2] = {
      {"f/cat/2.tar:3.png", "cat"}, {"f/cat/deep/1.tar:2.png", "cat"}, {"f/dog/3.tar:1.png", "dog"}};
  assert_lists(state, d, flat, 3);
  assert_int_equal(d->class_count, 3); /* "none" too */
  np_dataset_close(d);
  shell(state, "tar -rf f/dog/3.tar -C s cat/2.png"); /* one member with a folder: the others have no class now */
  assert_error(open_at(state, "f", true, &d), NP_ERR_ARGUMENT, "f/cat/2.tar:3.png' has no class");
  assert_ok(open_at(state, "f", false, &d));
  const char *const half[][2] = {{"f/cat/2.tar:3.png", ""},
                                 {"f/cat/deep/1.tar:2.png", ""},
                                 {"f/dog/3.tar:1.png", ""},
                                 {"f/dog/3.tar:cat/2.png", "cat"}};
  assert_lists(state, d, half, 4);
  np_dataset_close(d);
  shell(state, "tar -cf flat.tar -C s 5.png");
  assert_error(open_at(state, "flat.tar", true, &d), NP_ERR_ARGUMENT, "flat.tar:5.png' has no class: ");
  assert_null(d);
}

static void test_parts(void **state) {
  char *part, *expected = at(state, "val.tar");
  shell(state, "mkdir train test.tar && touch val.tar train.tar");
  part = np_dataset_part(*state, "val");
  assert_string_equal(part, expected);
  free(part);
  part = np_dataset_part(*state, "train");
  assert_string_equal(strrchr(part, '/'), "/train");
  free(part);
  assert_null(np_dataset_part(*state, "test"));
  free(expected);
}

/* ---- what is refused ---- */

static void test_refused(void **state) {
  np_dataset *d;
  static const struct {
    const char *make; /* of x.tar or what else `open` names */
    const char *open;
    np_status code;
    const char *part;
  } cases[] = {
      {"gzip -k x.tar", "x.tar.gz", NP_ERR_ARGUMENT, "x.tar.gz' is compressed: decompress it"},
      {"mkdir t && gzip -c x.tar >t/y.TGZ", "t", NP_ERR_ARGUMENT, "t/y.TGZ' is compressed"},
      {"mkdir t/c && cp x.tar t && mv t/y.TGZ t/c/y.tar.zst", "t", NP_ERR_ARGUMENT, "t/c/y.tar.zst' is compressed"},
      {"rm t/c/* && cp s/1.png t/c", "t", NP_ERR_ARGUMENT, "t' holds images and tar files ("},
      {"gzip -c x.tar >y.tar", "y.tar", NP_ERR_FORMAT, "y.tar' is no tar file or a damaged one: "},
      {"head -c 5000 s/1.png >y.tar", "y.tar", NP_ERR_FORMAT, "y.tar' is no tar file or a damaged one: "},
      {": >y.tar", "y.tar", NP_ERR_FORMAT, "y.tar' is empty"},
      {"head -c 10240 /dev/zero >y.tar", "y.tar", NP_ERR_FORMAT, "y.tar' holds no image"},
      {"tar -cf y.tar -C s notes.txt", "y.tar", NP_ERR_FORMAT, "y.tar' holds no image"},
      {"mkdir u && cp x.tar u && mv y.tar u", "u", NP_ERR_FORMAT, "u/y.tar' holds no image"},
      {"ln s/1.png s/l.png && tar -cf y.tar -C s 1.png l.png", "y.tar", NP_ERR_ARGUMENT, "y.tar:l.png' is a link: "},
      {"ln -sf 1.png s/l.png && tar -cf y.tar -C s 1.png l.png", "y.tar", NP_ERR_ARGUMENT, "y.tar:l.png' is a link: "},
      {"rm s/l.png && mkfifo s/l.png && tar -cf y.tar -C s l.png", "y.tar", NP_ERR_ARGUMENT,
       "y.tar:l.png' is no regular"},
      {"rm y.tar && mkfifo y.tar", "y.tar", NP_ERR_IO, "y.tar': not a regular file"},
      {"ln -s nowhere z.tar && mkdir v && mv z.tar v", "v", NP_ERR_IO, "v/z.tar': No such file"},
      {"true", "w.tar", NP_ERR_IO, "cannot read the folder"},
  };
  put(state, "s/1.png", 5000);
  put(state, "s/notes.txt", 5);
  shell(state, "tar -cf x.tar -C s 1.png");
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    shell(state, "%s", cases[i].make);
    assert_error(open_at(state, cases[i].open, false, &d), cases[i].code, cases[i].part);
    assert_null(d);
  }
  shell(state,
        "truncate -s 100000 s/sparse.png && printf x | dd of=s/sparse.png bs=1 seek=70000 conv=notrunc 2>dd.log");
  static const char *const sparse[] = {"gnu", "posix --sparse-version=0.0", "posix --sparse-version=0.1",
                                       "posix --sparse-version=1.0"};
  for (int i = 0; i < 4; i++) {
    shell(state, "tar -S --format=%s -cf sparse.tar -C s sparse.png 1.png", sparse[i]);
    assert_error(open_at(state, "sparse.tar", false, &d), NP_ERR_ARGUMENT, "sparse.tar:sparse.png' is stored sparse");
    shell(state, "cp s/sparse.png s/no-image && tar -S --format=%s -cf sparse.tar -C s no-image 1.png", sparse[i]);
    assert_ok(open_at(state, "sparse.tar", false, &d));
    assert_bytes(state, d, "s");
    np_dataset_close(d);
  }
}

/* Three members; *size of the tar's own blocks, which the zeros follow. */
static char *small_tar(void **state, const char *format, size_t *size) {
  char *path = at(state, "small.tar"), *bytes;
  put(state, "s/1.png", 700);
  put(state, "s/2.txt", 1030);
  put(state, "s/c/3.jpg", 40);
  shell(state, "tar --format=%s --mtime=@0.5 -cf small.tar -C s 1.png 2.txt c/3.jpg", format);
  assert_ok(np_file_read(path, 1 << 20, &bytes, size));
  free(path);
  while (*size > 0 && !bytes[*size - 1]) --*size;
  *size = (*size + 511) / 512 * 512;
  return bytes;
}

static np_status open_bytes(void **state, const char *bytes, size_t size, np_dataset **out) {
  char *path = at(state, "cut.tar");
  assert_ok(np_file_write_unsynced(path, bytes, size));
  np_status st = np_dataset_open(path, false, out);
  if (st != NP_OK && !strstr(np_error_message(), path)) fail_msg("no file named: %s", np_error_message());
  if (st != NP_OK && strchr(np_error_message(), '\n')) fail_msg("several lines: %s", np_error_message());
  free(path);
  return st;
}

/* Cut anywhere before the first of the zeros that end it: an error; behind it nothing is lost. */
static void test_cut_off(void **state) {
  static const char *const formats[] = {"ustar", "gnu", "posix"};
  for (int f = 0; f < 3; f++) {
    size_t used;
    char *bytes = small_tar(state, formats[f], &used);
    for (size_t cut = 0; cut <= used + 1024; cut += cut % 512 == 500 ? 12 : 500) {
      np_dataset *d;
      np_status st = open_bytes(state, bytes, cut, &d);
      const bool whole = cut >= used + 512 && cut % 512 == 0;
      if (st != (whole ? NP_OK : NP_ERR_FORMAT))
        fail_msg("%s, cut at %zu of %zu: %s", formats[f], cut, used, st == NP_OK ? "taken" : np_error_message());
      if (whole) assert_int_equal(d->count, 2);
      np_dataset_close(d);
    }
    free(bytes);
  }
}

/* Every bit pattern of a header is under its checksum: one byte changed is an error, or changes nothing that is read.
 */
static void test_damaged_headers(void **state) {
  size_t used;
  char *bytes = small_tar(state, "ustar", &used);
  const size_t headers[] = {0, 512 + 1024, 512 + 1024 + 512 + 1536};
  np_dataset *good, *d;
  int refused = 0;
  assert_int_equal(used, headers[2] + 1024);
  assert_ok(open_bytes(state, bytes, used + 1024, &good));
  for (int h = 0; h < 3; h++) {
    for (size_t i = 0; i < 512; i++) {
      char *byte = bytes + headers[h] + i, before = *byte;
      *byte = (char)(before ^ (i % 2 ? 0x55 : 0x01));
      if (open_bytes(state, bytes, used + 1024, &d) != NP_OK) {
        refused++;
      } else {
        assert_int_equal(d->count, good->count);
        for (int64_t s = 0; s < d->count; s++) {
          assert_string_equal(d->samples[s].path, good->samples[s].path);
          assert_int_equal(d->samples[s].offset, good->samples[s].offset);
          assert_int_equal(d->samples[s].size, good->samples[s].size);
        }
      }
      np_dataset_close(d);
      *byte = before;
    }
  }
  assert_true(refused > 3 * 500);
  np_dataset_close(good);
  free(bytes);
}

/* What lies in pax and GNU headers has no checksum: anything may come of it but a crash, and members lie in the file.
 */
static void test_damaged_anywhere(void **state) {
  static const char *const formats[] = {"posix", "gnu"};
  np_rng rng = np_rng_make(1, NP_PURPOSE_SYNTH, 0, 0);
  for (int round = 0; round < 3000; round++) {
    static char *bytes[2];
    static size_t used[2];
    const int f = round % 2;
    if (!bytes[f]) bytes[f] = small_tar(state, formats[f], &used[f]);
    char *copy = malloc(used[f] + 1024);
    memcpy(copy, bytes[f], used[f] + 1024);
    for (int i = 0; i < 1 + round % 3; i++) copy[np_rng_u32(&rng) % used[f]] = (char)np_rng_u32(&rng);
    np_dataset *d;
    if (open_bytes(state, copy, used[f] + 1024, &d) == NP_OK)
      for (int64_t s = 0; s < d->count; s++)
        assert_in_range(d->samples[s].offset + d->samples[s].size, 512, used[f] + 1024);
    np_dataset_close(d);
    free(copy);
    if (round >= 2998) free(bytes[f]);
  }
}

/* ---- reading ---- */

/* More tars than files may be open. */
static void test_many(void **state) {
  struct rlimit before, few;
  np_dataset *d;
  put(state, "s/1.png", 100);
  shell(state, "mkdir t && tar -cf t/0.tar -C s 1.png && for i in $(seq 1 399); do ln t/0.tar t/$i.tar; done");
  assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
  few = (struct rlimit){300, before.rlim_max};
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
  np_status st = open_at(state, "t", false, &d);
  if (st == NP_OK) assert_bytes(state, d, "s");
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
  assert_int_equal(st, NP_OK);
  assert_int_equal(d->count, 400);
  np_dataset_close(d);
}

/* A tar that becomes shorter while the run lasts: an error that names the member, and IO, as of a file that is away. */
static void test_becomes_shorter(void **state) {
  np_dataset *d;
  np_image image;
  put(state, "s/1.png", 3000);
  put(state, "s/2.png", 30);
  shell(state, "tar -cf x.tar -C s 1.png 2.png");
  assert_ok(open_at(state, "x.tar", false, &d));
  assert_error(np_dataset_read(d, 0, 3, 100, &image), NP_ERR_FORMAT, "x.tar:1.png: neither PNG nor JPEG");
  shell(state, "truncate -s 2000 x.tar");
  assert_error(np_dataset_read(d, 0, 3, 100, &image), NP_ERR_IO, "x.tar:1.png': the tar file became shorter");
  assert_error(np_dataset_read(d, 1, 3, 100, &image), NP_ERR_IO, "x.tar:2.png'");
  d->samples[1].size = UINT32_MAX;
  assert_error(np_dataset_read(d, 1, 3, 100, &image), NP_ERR_FORMAT, "x.tar:2.png' has more than");
  np_dataset_close(d);
}

#define IN_TEMP(test) cmocka_unit_test_setup_teardown(test, temp_setup, temp_teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      IN_TEMP(test_formats), IN_TEMP(test_members),         IN_TEMP(test_order),
      IN_TEMP(test_labels),  IN_TEMP(test_parts),           IN_TEMP(test_refused),
      IN_TEMP(test_cut_off), IN_TEMP(test_damaged_headers), IN_TEMP(test_damaged_anywhere),
      IN_TEMP(test_many),    IN_TEMP(test_becomes_shorter), IN_TEMP(test_numbers),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
