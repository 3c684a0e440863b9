/* make_seeds FOLDER: writes one small PNG of every colour type, depth and interlacing, and JPEGs of every colour space
 * and coding, into the folder. They start the fuzzing of the decoder; tests/data/make_pillow.py has Pillow decode them
 * for the unit tests. The same files every time. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <png.h>

#include <jpeglib.h>

enum { PNG_WIDTH = 11, PNG_HEIGHT = 9, JPEG_WIDTH = 21, JPEG_HEIGHT = 19 };

static uint32_t state = 1;

static uint8_t noise(void) {
  state = state * 1664525u + 1013904223u;
  return (uint8_t)(state >> 24);
}

static FILE *create(const char *folder, const char *name) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "wb");
  if (!file) {
    perror(path);
    exit(1);
  }
  return file;
}

/* ---- PNG
 * ------------------------------------------------------------------------------------------------------------- */

static void add_palette(png_structp png, png_infop info, int depth) {
  /* Fewer entries than the depth has values: some pixels then lie outside. */
  png_color palette[100];
  png_byte alpha[] = {0, 128, 255};
  const int count = depth == 8 ? 100 : depth == 1 ? 2 : (1 << depth) - 1;
  for (int i = 0; i < count; i++) palette[i] = (png_color){noise(), noise(), noise()};
  png_set_PLTE(png, info, palette, count);
  png_set_tRNS(png, info, alpha, 2, NULL);
}

static void write_png(const char *folder, int type, int depth, int interlaced) {
  static const char *const names[] = {[PNG_COLOR_TYPE_GRAY] = "grey",
                                      [PNG_COLOR_TYPE_RGB] = "rgb",
                                      [PNG_COLOR_TYPE_PALETTE] = "palette",
                                      [PNG_COLOR_TYPE_GRAY_ALPHA] = "grey-alpha",
                                      [PNG_COLOR_TYPE_RGB_ALPHA] = "rgb-alpha"};
  char name[64];
  snprintf(name, sizeof name, "%s-%d%s.png", names[type], depth, interlaced ? "-interlaced" : "");
  FILE *file = create(folder, name);
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
  png_infop info = png_create_info_struct(png);
  png_init_io(png, file);
  png_set_IHDR(png, info, PNG_WIDTH, PNG_HEIGHT, depth, type, interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_set_check_for_invalid_index(png, 0);
  if (type == PNG_COLOR_TYPE_PALETTE) add_palette(png, info, depth);
  if (type == PNG_COLOR_TYPE_GRAY || type == PNG_COLOR_TYPE_RGB) {
    const png_color_16 clear = {.gray = 1, .red = 1, .green = 1, .blue = 1};
    png_set_tRNS(png, info, NULL, 0, &clear);
    png_set_gAMA_fixed(png, info, 45455);
  }
  char key[] = "Comment", value[] = "seed";
  png_text text = {.compression = PNG_TEXT_COMPRESSION_zTXt, .key = key, .text = value};
  png_set_text(png, info, &text, 1);
  png_write_info(png, info);

  uint8_t pixels[PNG_HEIGHT][PNG_WIDTH * 8], *rows[PNG_HEIGHT];
  for (int y = 0; y < PNG_HEIGHT; y++) {
    for (size_t x = 0; x < sizeof pixels[y]; x++) pixels[y][x] = noise();
    if (type == PNG_COLOR_TYPE_GRAY && depth == 16) /* values on both sides of 255 */
      for (size_t x = 0; x < PNG_WIDTH; x += 2) pixels[y][2 * x] = 0;
    rows[y] = pixels[y];
  }
  png_write_image(png, rows);
  png_write_end(png, info);
  png_destroy_write_struct(&png, &info);
  fclose(file);
}

/* ---- JPEG
 * ------------------------------------------------------------------------------------------------------------ */

typedef struct jpeg_kind {
  const char *name;
  J_COLOR_SPACE in, stored;
  int progressive, arithmetic, horizontal, vertical, restart, quality;
} jpeg_kind;

static void write_jpeg(const char *folder, const jpeg_kind *kind) {
  struct jpeg_compress_struct info;
  struct jpeg_error_mgr error;
  FILE *file = create(folder, kind->name);
  info.err = jpeg_std_error(&error);
  jpeg_create_compress(&info);
  jpeg_stdio_dest(&info, file);
  info.image_width = JPEG_WIDTH;
  info.image_height = JPEG_HEIGHT;
  info.input_components = kind->in == JCS_GRAYSCALE ? 1 : kind->in == JCS_CMYK ? 4 : 3;
  info.in_color_space = kind->in;
  jpeg_set_defaults(&info);
  jpeg_set_colorspace(&info, kind->stored);
  jpeg_set_quality(&info, kind->quality, TRUE);
  if (kind->progressive) jpeg_simple_progression(&info);
  info.arith_code = kind->arithmetic;
  info.restart_interval = (unsigned)kind->restart;
  info.comp_info[0].h_samp_factor = kind->horizontal;
  info.comp_info[0].v_samp_factor = kind->vertical;
  jpeg_start_compress(&info, TRUE);
  for (int y = 0; y < JPEG_HEIGHT; y++) {
    uint8_t pixels[JPEG_WIDTH * 4], *row = pixels;
    const int count = JPEG_WIDTH * info.input_components;
    for (int i = 0; i < count; i++)
      pixels[i] = (uint8_t)((7 * i + 11 * y * (1 + i % info.input_components)) % 200 + noise() % 56);
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  jpeg_destroy_compress(&info);
  fclose(file);
}

int main(int argc, char **argv) {
  static const int depths[] = {1, 2, 4, 8, 16};
  static const int types[] = {PNG_COLOR_TYPE_GRAY, PNG_COLOR_TYPE_RGB, PNG_COLOR_TYPE_PALETTE,
                              PNG_COLOR_TYPE_GRAY_ALPHA, PNG_COLOR_TYPE_RGB_ALPHA};
  static const jpeg_kind kinds[] = {
      {"grey.jpg", JCS_GRAYSCALE, JCS_GRAYSCALE, 0, 0, 1, 1, 0, 90},
      {"grey-progressive.jpg", JCS_GRAYSCALE, JCS_GRAYSCALE, 1, 0, 1, 1, 0, 60},
      {"ycc-444.jpg", JCS_RGB, JCS_YCbCr, 0, 0, 1, 1, 0, 95},
      {"ycc-422.jpg", JCS_RGB, JCS_YCbCr, 0, 0, 2, 1, 0, 80},
      {"ycc-420.jpg", JCS_RGB, JCS_YCbCr, 0, 0, 2, 2, 2, 75},
      {"ycc-440.jpg", JCS_RGB, JCS_YCbCr, 0, 0, 1, 2, 0, 75},
      {"ycc-progressive.jpg", JCS_RGB, JCS_YCbCr, 1, 0, 2, 2, 0, 75},
      {"ycc-arithmetic.jpg", JCS_RGB, JCS_YCbCr, 0, 1, 2, 2, 0, 75},
      {"ycc-arithmetic-progressive.jpg", JCS_RGB, JCS_YCbCr, 1, 1, 1, 1, 0, 75},
      {"rgb.jpg", JCS_RGB, JCS_RGB, 0, 0, 1, 1, 0, 80},
      {"cmyk.jpg", JCS_CMYK, JCS_CMYK, 0, 0, 1, 1, 0, 80},
      {"ycck.jpg", JCS_CMYK, JCS_YCCK, 0, 0, 2, 2, 0, 80},
      {"ycck-progressive.jpg", JCS_CMYK, JCS_YCCK, 1, 0, 1, 1, 0, 80},
  };
  if (argc != 2) {
    fprintf(stderr, "usage: make_seeds FOLDER\n");
    return 2;
  }
  for (size_t t = 0; t < sizeof types / sizeof *types; t++)
    for (size_t d = 0; d < sizeof depths / sizeof *depths; d++) {
      if (types[t] == PNG_COLOR_TYPE_PALETTE ? depths[d] == 16 : types[t] != PNG_COLOR_TYPE_GRAY && depths[d] < 8)
        continue;
      for (int interlaced = 0; interlaced < 2; interlaced++) write_png(argv[1], types[t], depths[d], interlaced);
    }
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) write_jpeg(argv[1], &kinds[i]);
  return 0;
}
