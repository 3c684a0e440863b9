/* Embeds the engine through its public header alone. Exit status 0 when every call did what the header says.
 * usage: consumer RECIPE, a recipe that is valid */
#include <nextpatch/nextpatch.h>

#include <stdio.h>
#include <string.h>

static int failures;

static void expect(int truth, const char *what) {
  if (truth) return;
  fprintf(stderr, "consumer: %s; last message: %s\n", what, nextpatch_error());
  failures++;
}

/* Two pixels, (255, 0, 10) and (1, 2, 3), written by Pillow. */
static const uint8_t png[] = {0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0x00, 0x00, 0x00, 0x0d, 0x49, 0x48, 0x44,
                              0x52, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x01, 0x08, 0x02, 0x00, 0x00, 0x00, 0x7b,
                              0x40, 0xe8, 0xdd, 0x00, 0x00, 0x00, 0x0f, 0x49, 0x44, 0x41, 0x54, 0x78, 0x9c, 0x63, 0xf8,
                              0xcf, 0xc0, 0xc5, 0xc8, 0xc4, 0x0c, 0x00, 0x06, 0x33, 0x01, 0x10, 0x90, 0x30, 0xdd, 0x1b,
                              0x00, 0x00, 0x00, 0x00, 0x49, 0x45, 0x4e, 0x44, 0xae, 0x42, 0x60, 0x82};

static void images(void) {
  const uint8_t pixels[] = {255, 0, 10, 1, 2, 3};
  nextpatch_image image;
  expect(!nextpatch_image_decode(png, sizeof png, 3, 0, &image), "decode");
  expect(image.height == 1 && image.width == 2 && image.channels == 3, "shape");
  expect(image.pixels && !memcmp(image.pixels, pixels, sizeof pixels), "pixels");
  nextpatch_image_free(&image);
  expect(nextpatch_image_decode(png, sizeof png - 20, 3, 0, &image) == NEXTPATCH_ERROR_FORMAT,
         "a truncated image is refused");
  expect(!image.pixels, "an image that was refused is empty");
  expect(nextpatch_image_decode(png, sizeof png, 3, 1, &image) == NEXTPATCH_ERROR_FORMAT, "max_pixels");
  expect(nextpatch_image_decode(png, sizeof png, 2, 0, &image) == NEXTPATCH_ERROR_ARGUMENT, "two channels");
}

static void recipes(const char *recipe) {
  const char *wider[] = {"model.width=192", "model.heads=3"}, *odd[] = {"model.patch_size=5"};
  expect(!nextpatch_recipe_check(recipe, NULL, 0), "a valid recipe");
  expect(!nextpatch_recipe_check(recipe, wider, 2), "a valid recipe with valid overrides");
  expect(nextpatch_recipe_check(recipe, odd, 1) == NEXTPATCH_ERROR_ARGUMENT, "an image that the patch does not divide");
  expect(strstr(nextpatch_error(), "patch_size") != NULL, "the message names the key");
  expect(nextpatch_recipe_check("no/such/file.yaml", NULL, 0) != NEXTPATCH_OK, "a missing recipe");
}

int main(int argc, char **argv) {
  expect(!strncmp(nextpatch_version(), "0.", 2), "version");
  expect(!strcmp(nextpatch_error(), ""), "no message before the first failure");
  images();
  if (argc > 1) recipes(argv[1]);
  return failures != 0;
}
