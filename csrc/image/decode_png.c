/* PNG through libpng, whose own colour transforms stay off: rows come as stored (small depths one value a byte) and
 * become what Pillow makes of them: alpha and transparency dropped, 16 bits a colour channel cut to the high byte,
 * 16-bit grey clipped at 255 (Pillow opens it as integers and clips), palette entries that the file lacks a grey ramp.
 */
#include "image/internal.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <png.h>

typedef struct png_reader {
  png_structp png;
  png_infop info;
  const char *name;
  const uint8_t *bytes;
  size_t left;
  int64_t max_pixels;
  int channels;
  np_image *out;
  uint8_t *raw;          /* rows as stored: one, or all of an interlaced image */
  png_bytepp rows;       /* of an interlaced image */
  int type, depth;       /* of the file */
  uint8_t table[256][3]; /* stored value → colour, for palettes and grey of up to 8 bits */
  np_status status;
} png_reader;

static _Noreturn void on_error(png_structp png, png_const_charp what) {
  png_reader *reader = png_get_error_ptr(png);
  if (reader->status == NP_OK) reader->status = np_error(NP_ERR_FORMAT, "%s: damaged PNG: %s", reader->name, what);
  png_longjmp(png, 1);
}

/* libpng only warns when the checksum of the pixels is wrong; other warnings are about things that do not touch them.
 */
static void on_warning(png_structp png, png_const_charp what) {
  if (!strncmp(what, "IDAT:", 5)) on_error(png, what);
}

static void read_bytes(png_structp png, png_bytep to, size_t count) {
  png_reader *reader = png_get_io_ptr(png);
  if (count > reader->left) png_error(png, "truncated");
  memcpy(to, reader->bytes, count);
  reader->bytes += count;
  reader->left -= count;
}

static void relay(png_reader *reader, np_status status) {
  reader->status = status;
  if (status != NP_OK) png_longjmp(reader->png, 1);
}

static uint8_t *take_memory(png_reader *reader, size_t bytes) {
  uint8_t *memory = malloc(bytes);
  if (!memory) relay(reader, np_error(NP_ERR_MEMORY, "%s: no memory to decode it", reader->name));
  return memory;
}

static void fill_table(png_reader *reader) {
  const int largest = reader->type == PNG_COLOR_TYPE_PALETTE || reader->depth >= 8 ? 255 : (1 << reader->depth) - 1;
  for (int i = 0; i < 256; i++) memset(reader->table[i], i * (255 / largest) & 255, 3);
  png_colorp palette;
  int count;
  if (reader->type == PNG_COLOR_TYPE_PALETTE && png_get_PLTE(reader->png, reader->info, &palette, &count))
    for (int i = 0; i < count; i++)
      memcpy(reader->table[i], (uint8_t[]){palette[i].red, palette[i].green, palette[i].blue}, 3);
}

/* One stored pixel → RGB. */
static void read_pixel(const png_reader *reader, const uint8_t *in, uint8_t rgb[3]) {
  const int step = reader->depth == 16 ? 2 : 1;
  if (reader->type & PNG_COLOR_MASK_COLOR && reader->type != PNG_COLOR_TYPE_PALETTE) {
    for (int c = 0; c < 3; c++) rgb[c] = in[c * step];
  } else if (reader->type == PNG_COLOR_TYPE_GRAY && step == 2) {
    memset(rgb, in[0] ? 255 : in[1], 3);
  } else {
    memcpy(rgb, reader->table[in[0]], 3);
  }
}

static void convert_row(const png_reader *reader, const uint8_t *in, uint8_t *out) {
  const size_t pixel = png_get_channels(reader->png, reader->info) * (reader->depth == 16 ? 2u : 1u);
  const int width = reader->out->width;
  for (int x = 0; x < width; x++, in += pixel, out += reader->channels) {
    uint8_t rgb[3];
    read_pixel(reader, in, rgb);
    if (reader->channels == 3) memcpy(out, rgb, 3);
    else out[0] = np_grey(rgb);
  }
}

/* The file's pixels are already the output's. */
static int is_plain(const png_reader *reader) {
  return reader->depth == 8 && reader->type == (reader->channels == 3 ? PNG_COLOR_TYPE_RGB : PNG_COLOR_TYPE_GRAY);
}

static void read_interlaced(png_reader *reader, size_t row_bytes) {
  const np_image *out = reader->out;
  const size_t height = (size_t)out->height, stride = (size_t)out->width * (size_t)out->channels;
  reader->raw = take_memory(reader, row_bytes * height);
  reader->rows = (png_bytepp)(void *)take_memory(reader, height * sizeof *reader->rows);
  for (size_t y = 0; y < height; y++) reader->rows[y] = reader->raw + y * row_bytes;
  png_read_image(reader->png, reader->rows);
  for (size_t y = 0; y < height; y++) convert_row(reader, reader->rows[y], out->pixels + y * stride);
}

static void read_plain_order(png_reader *reader, size_t row_bytes) {
  const np_image *out = reader->out;
  const size_t stride = (size_t)out->width * (size_t)out->channels;
  if (!is_plain(reader)) reader->raw = take_memory(reader, row_bytes);
  for (size_t y = 0; y < (size_t)out->height; y++) {
    uint8_t *row = out->pixels + y * stride;
    png_read_row(reader->png, reader->raw ? reader->raw : row, NULL);
    if (reader->raw) convert_row(reader, reader->raw, row);
  }
}

static void decode(png_reader *reader) {
  png_structp png = reader->png;
  png_set_read_fn(png, reader, read_bytes);
  png_set_crc_action(png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
  png_set_user_limits(png, PNG_UINT_31_MAX, PNG_UINT_31_MAX); /* max_pixels decides, not libpng's side of a million */
  /* Pass over every ancillary chunk but transparency: none changes a pixel, and profiles and texts may be compressed
   * bombs. */
  png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
  png_read_info(png, reader->info);

  const png_uint_32 height = png_get_image_height(png, reader->info), width = png_get_image_width(png, reader->info);
  relay(reader, np_image_check_size(reader->name, height, width, reader->max_pixels));
  reader->type = png_get_color_type(png, reader->info);
  reader->depth = png_get_bit_depth(png, reader->info);
  fill_table(reader);
  if (reader->depth < 8) png_set_packing(png);
  const int passes = png_set_interlace_handling(png);
  png_read_update_info(png, reader->info);
  relay(reader, np_image_alloc(reader->out, (int)height, (int)width, reader->channels));

  const size_t row_bytes = png_get_rowbytes(png, reader->info);
  if (passes > 1) read_interlaced(reader, row_bytes);
  else read_plain_order(reader, row_bytes);
}

np_status np_decode_png(const void *bytes, size_t size, const char *name, int channels, int64_t max_pixels,
                        np_image *out) {
  png_reader reader = {
      .name = name, .bytes = bytes, .left = size, .max_pixels = max_pixels, .channels = channels, .out = out};
  reader.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &reader, on_error, on_warning);
  if (!reader.png) return np_error(NP_ERR_MEMORY, "%s: no memory to decode it", name);
  reader.info = png_create_info_struct(reader.png);
  if (!reader.info) {
    reader.status = np_error(NP_ERR_MEMORY, "%s: no memory to decode it", name);
  } else if (setjmp(png_jmpbuf(reader.png)) == 0) {
    decode(&reader);
  }
  png_destroy_read_struct(&reader.png, &reader.info, NULL);
  free(reader.rows);
  free(reader.raw);
  if (reader.status != NP_OK) np_image_free(out);
  return reader.status;
}
