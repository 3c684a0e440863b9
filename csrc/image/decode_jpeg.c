/* JPEG through libjpeg, with the settings and the leniency of Pillow's decoder: exact integer DCT, fancy upsampling,
 * the colour space that the file implies; four channels are read as Adobe's inverted CMYK. */
#include "image/internal.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>

#include <jerror.h> /* its list of codes depends on the former */

/* A progressive file may repeat scans, each costing a pass over the whole image: real ones have about ten. */
enum { MAX_SCANS = 500, ROWS_AT_ONCE = 16 };

typedef struct jpeg_reader {
  struct jpeg_decompress_struct info;
  struct jpeg_error_mgr error;
  struct jpeg_source_mgr source;
  struct jpeg_progress_mgr progress;
  jmp_buf escape;
  const char *name;
  int64_t max_pixels;
  int channels;
  np_image *out;
  uint8_t *row; /* one row of the file's channels, where they are not the output's */
  np_status status;
} jpeg_reader;

static jpeg_reader *reader_of(j_common_ptr info) { return info->client_data; }

static _Noreturn void damage(jpeg_reader *reader, const char *what) {
  reader->status = np_error(NP_ERR_FORMAT, "%s: damaged JPEG: %s", reader->name, what);
  longjmp(reader->escape, 1);
}

static _Noreturn void library_message(j_common_ptr info) {
  char text[JMSG_LENGTH_MAX];
  jpeg_reader *reader = reader_of(info);
  info->err->format_message(info, text);
  if (info->err->msg_code != JERR_OUT_OF_MEMORY) damage(reader, text);
  reader->status = np_error(NP_ERR_MEMORY, "%s: no memory to decode it", reader->name);
  longjmp(reader->escape, 1);
}

static void on_error(j_common_ptr info) { library_message(info); }

/* Warnings that mean that pixels were made up end the decoding; those about odd headers and stray bytes do not. */
static void on_message(j_common_ptr info, int level) {
  if (level >= 0) return;
  switch (info->err->msg_code) {
  case JWRN_HIT_MARKER:
  case JWRN_HUFF_BAD_CODE:
  case JWRN_ARITH_BAD_CODE:
  case JWRN_MUST_RESYNC:
  case JWRN_NOT_SEQUENTIAL:
  case JWRN_JPEG_EOF:
    library_message(info);
  default:
    break;
  }
}

static void on_output(j_common_ptr info) { (void)info; }

static void on_progress(j_common_ptr info) {
  if (((j_decompress_ptr)info)->input_scan_number > MAX_SCANS) damage(reader_of(info), "too many scans");
}

/* All bytes are there from the start. At their end the library is told to wait, so that every call says whether it
 * could do its work: a file that only lacks its end mark still decodes, as in Pillow. */
static void source_nothing(j_decompress_ptr info) { (void)info; }
static boolean source_end(j_decompress_ptr info) {
  (void)info;
  return FALSE;
}
static void source_skip(j_decompress_ptr info, long count) {
  struct jpeg_source_mgr *source = info->src;
  if (count <= 0) return;
  const size_t skip = (size_t)count < source->bytes_in_buffer ? (size_t)count : source->bytes_in_buffer;
  source->next_input_byte += skip;
  source->bytes_in_buffer -= skip;
}

/* Pillow's CMYK → RGB on Adobe's inverted values: c' = 255 - c is what the file holds. */
static uint8_t mix(uint8_t inverted, unsigned white) {
  const unsigned product = (255u - inverted) * white + 128u;
  return (uint8_t)(white - (((product >> 8) + product) >> 8));
}

static void convert_row(const uint8_t *in, int in_channels, uint8_t *out, int out_channels, int width) {
  for (int x = 0; x < width; x++, in += in_channels, out += out_channels) {
    uint8_t rgb[3] = {in[0], in[1], in[2]};
    if (in_channels == 4)
      for (int c = 0; c < 3; c++) rgb[c] = mix(in[c], in[3]);
    if (out_channels == 1) {
      out[0] = np_grey(rgb);
    } else {
      for (int c = 0; c < 3; c++) out[c] = rgb[c];
    }
  }
}

/* What the library shall put out: the caller's format where it can make it, else what convert_row takes. */
static void choose_colour(jpeg_reader *reader) {
  struct jpeg_decompress_struct *info = &reader->info;
  switch (info->num_components) {
  case 1:
    info->out_color_space = reader->channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    break;
  case 3:
    info->out_color_space = JCS_RGB;
    break;
  case 4:
    info->out_color_space = JCS_CMYK;
    break;
  default:
    damage(reader, "neither 1, 3 nor 4 colour channels");
  }
}

static void read_rows(jpeg_reader *reader) {
  struct jpeg_decompress_struct *info = &reader->info;
  const size_t stride = (size_t)reader->out->width * (size_t)reader->out->channels;
  while (info->output_scanline < info->output_height) {
    JSAMPROW rows[ROWS_AT_ONCE];
    const int first = (int)info->output_scanline;
    int count = 1;
    if (reader->row) {
      rows[0] = reader->row;
    } else {
      for (count = 0; count < ROWS_AT_ONCE && first + count < reader->out->height; count++)
        rows[count] = reader->out->pixels + (size_t)(first + count) * stride;
    }
    if (jpeg_read_scanlines(info, rows, (JDIMENSION)count) == 0) damage(reader, "truncated");
    if (reader->row)
      convert_row(reader->row, info->output_components, reader->out->pixels + (size_t)first * stride, reader->channels,
                  reader->out->width);
  }
}

static void decode(jpeg_reader *reader) {
  struct jpeg_decompress_struct *info = &reader->info;
  int header;
  do header = jpeg_read_header(info, FALSE);
  while (header == JPEG_HEADER_TABLES_ONLY);
  if (header != JPEG_HEADER_OK) damage(reader, "truncated before its image");
  reader->status = np_image_check_size(reader->name, info->image_height, info->image_width, reader->max_pixels);
  if (reader->status != NP_OK) longjmp(reader->escape, 1);
  choose_colour(reader);
  info->dct_method = JDCT_ISLOW;
  info->do_fancy_upsampling = TRUE;

  if (!jpeg_start_decompress(info)) damage(reader, "truncated");
  reader->status = np_image_alloc(reader->out, (int)info->output_height, (int)info->output_width, reader->channels);
  if (reader->status != NP_OK) longjmp(reader->escape, 1);
  if (info->output_components != reader->channels) {
    reader->row = malloc((size_t)info->output_width * (size_t)info->output_components);
    if (!reader->row) {
      reader->status = np_error(NP_ERR_MEMORY, "%s: no memory for a row", reader->name);
      longjmp(reader->escape, 1);
    }
  }
  read_rows(reader);
  jpeg_finish_decompress(info); /* may miss the end mark: all pixels are there */
}

np_status np_decode_jpeg(const void *bytes, size_t size, const char *name, int channels, int64_t max_pixels,
                         np_image *out) {
  jpeg_reader reader = {.name = name, .max_pixels = max_pixels, .channels = channels, .out = out};
  reader.info.err = jpeg_std_error(&reader.error);
  reader.error.error_exit = on_error;
  reader.error.emit_message = on_message;
  reader.error.output_message = on_output;
  reader.info.client_data = &reader;
  if (setjmp(reader.escape) == 0) {
    jpeg_create_decompress(&reader.info); /* keeps err and client_data */
    reader.source = (struct jpeg_source_mgr){.next_input_byte = bytes,
                                             .bytes_in_buffer = size,
                                             .init_source = source_nothing,
                                             .fill_input_buffer = source_end,
                                             .skip_input_data = source_skip,
                                             .resync_to_restart = jpeg_resync_to_restart,
                                             .term_source = source_nothing};
    reader.progress.progress_monitor = on_progress;
    reader.info.src = &reader.source;
    reader.info.progress = &reader.progress;
    decode(&reader);
  }
  jpeg_destroy_decompress(&reader.info);
  free(reader.row);
  if (reader.status != NP_OK) np_image_free(out);
  return reader.status;
}
