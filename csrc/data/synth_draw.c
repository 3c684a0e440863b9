#include "data/synth.h"
#include "util/philox.h"

#include <math.h>
#include <string.h>

/* Shapes are signed distances (negative inside) in a frame where the shape fills about the unit disc; a pixel's cover
 * is its distance to the edge in pixels. Everything else is in units of the image's side. Polygon distance after Inigo
 * Quilez, https://iquilezles.org/articles/distfunctions2d/. */

typedef struct point {
  double x, y;
} point;

/* ---- shapes
 * ---------------------------------------------------------------------------------------------------------- */

enum { MAX_CORNERS = 12 };
typedef struct polygon {
  int corners;
  point at[MAX_CORNERS];
} polygon;

static const polygon square = {4, {{-.72, -.72}, {.72, -.72}, {.72, .72}, {-.72, .72}}};
static const polygon square_hole = {4, {{-.4, -.4}, {.4, -.4}, {.4, .4}, {-.4, .4}}};
static const polygon triangle = {3, {{0, -1}, {.87, .55}, {-.87, .55}}};
static const polygon cross = {12,
                              {{-.27, -.9},
                               {.27, -.9},
                               {.27, -.27},
                               {.9, -.27},
                               {.9, .27},
                               {.27, .27},
                               {.27, .9},
                               {-.27, .9},
                               {-.27, .27},
                               {-.9, .27},
                               {-.9, -.27},
                               {-.27, -.27}}};
static const polygon star = {10,
                             {{0, -1},
                              {.247, -.34},
                              {.951, -.309},
                              {.399, .13},
                              {.588, .809},
                              {0, .42},
                              {-.588, .809},
                              {-.399, .13},
                              {-.951, -.309},
                              {-.247, -.34}}};
static const polygon arrow = {7, {{0, -1}, {.75, -.1}, {.25, -.1}, {.25, .9}, {-.25, .9}, {-.25, -.1}, {-.75, -.1}}};
static const polygon ell = {6, {{-.7, -.85}, {-.1, -.85}, {-.1, .3}, {.7, .3}, {.7, .85}, {-.7, .85}}};
static const polygon tee = {
    8, {{-.85, -.8}, {.85, -.8}, {.85, -.25}, {.28, -.25}, {.28, .9}, {-.28, .9}, {-.28, -.25}, {-.85, -.25}}};
static const polygon hourglass = {6, {{-.75, -.9}, {.75, -.9}, {.16, 0}, {.75, .9}, {-.75, .9}, {-.16, 0}}};
static const polygon zigzag = {
    8, {{-.95, -.35}, {-.35, -.75}, {.35, .05}, {.95, -.35}, {.95, .35}, {.35, .75}, {-.35, -.05}, {-.95, .35}}};

static double polygon_distance(const polygon *shape, point p) {
  double nearest = INFINITY;
  int inside = 0;
  for (int i = 0, j = shape->corners - 1; i < shape->corners; j = i++) {
    point a = shape->at[i], b = shape->at[j], e = {b.x - a.x, b.y - a.y}, w = {p.x - a.x, p.y - a.y};
    double along = (w.x * e.x + w.y * e.y) / (e.x * e.x + e.y * e.y);
    along = along < 0 ? 0 : along > 1 ? 1 : along;
    point off = {w.x - e.x * along, w.y - e.y * along};
    nearest = fmin(nearest, off.x * off.x + off.y * off.y);
    if ((a.y > p.y) != (b.y > p.y) && p.x < e.x * w.y / e.y + a.x) inside = !inside;
  }
  return inside ? -sqrt(nearest) : sqrt(nearest);
}

static double box_distance(point p, double x, double y, double half_width, double half_height) {
  double dx = fabs(p.x - x) - half_width, dy = fabs(p.y - y) - half_height;
  return hypot(fmax(dx, 0), fmax(dy, 0)) + fmin(fmax(dx, dy), 0);
}

static double disc(point p) { return hypot(p.x, p.y) - .8; }
static double ring(point p) { return fabs(hypot(p.x, p.y) - .7) - .22; }
static double square_shape(point p) { return polygon_distance(&square, p); }
static double triangle_shape(point p) { return polygon_distance(&triangle, p); }
static double cross_shape(point p) { return polygon_distance(&cross, p); }
static double star_shape(point p) { return polygon_distance(&star, p); }
static double arrow_shape(point p) { return polygon_distance(&arrow, p); }
static double ell_shape(point p) { return polygon_distance(&ell, p); }
static double tee_shape(point p) { return polygon_distance(&tee, p); }
static double hourglass_shape(point p) { return polygon_distance(&hourglass, p); }
static double zigzag_shape(point p) { return polygon_distance(&zigzag, p); }
static double crescent(point p) { return fmax(hypot(p.x, p.y) - .9, .62 - hypot(p.x - .42, p.y)); }
static double half_disc(point p) { return fmax(hypot(p.x, p.y - .4) - .95, p.y - .4); }
static double frame(point p) { return fmax(polygon_distance(&square, p), -polygon_distance(&square_hole, p)); }

static double bars(point p) {
  double outer = fmin(box_distance(p, -.62, 0, .2, .8), box_distance(p, .62, 0, .2, .8));
  return fmin(outer, box_distance(p, 0, 0, .2, .8));
}

/* The five dark fields of a 3 × 3 board. */
static double checker(point p) {
  double d = box_distance(p, 0, 0, .28, .28);
  for (int i = 0; i < 4; i++) d = fmin(d, box_distance(p, i & 1 ? .56 : -.56, i & 2 ? .56 : -.56, .28, .28));
  return d;
}

/* Not a class: clutter. */
static double stroke(point p) { return box_distance(p, 0, 0, .9, .2); }
static double blob(point p) { return hypot(p.x, p.y * 1.6) - .8; }

static const struct {
  const char *name;
  double (*distance)(point p);
} classes[NP_SYNTH_CLASSES] = {
    {"disc", disc},
    {"ring", ring},
    {"square", square_shape},
    {"triangle", triangle_shape},
    {"cross", cross_shape},
    {"star", star_shape},
    {"bars", bars},
    {"checker", checker},
    {"crescent", crescent},
    {"arrow", arrow_shape},
    {"frame", frame},
    {"half_disc", half_disc},
    {"ell", ell_shape},
    {"tee", tee_shape},
    {"hourglass", hourglass_shape},
    {"zigzag", zigzag_shape},
};

const char *np_synth_class(int number) { return classes[number].name; }

/* ---- paint
 * ----------------------------------------------------------------------------------------------------------- */

typedef enum texture { PLAIN, STRIPES, DOTS, GRADIENT, NOISE, TEXTURES } texture;
enum { LATTICE = 12 };

typedef struct paint {
  texture kind;
  double base[3], swing[3]; /* colour = base + swing · t, t in [-1, 1] */
  point wave;               /* cycles over the image, as a direction */
  double phase;
  double lattice[LATTICE + 1][LATTICE + 1];
} paint;

static double between(np_rng *rng, double low, double high) { return low + (high - low) * np_rng_uniform(rng); }

static const double full_turn = 6.283185307179586;

/* The same number of draws whatever the texture. */
static void draw_paint(np_rng *rng, paint *out) {
  out->kind = (texture)np_rng_below(rng, TEXTURES);
  double strength = between(rng, .08, .22), angle = between(rng, 0, full_turn), cycles = between(rng, 3.5, 8);
  for (int c = 0; c < 3; c++) {
    out->base[c] = between(rng, .12, .88);
    out->swing[c] = strength * between(rng, -1, 1);
  }
  if (out->kind == GRADIENT) cycles = .5;
  out->wave = (point){cycles * cos(angle), cycles * sin(angle)};
  out->phase = between(rng, 0, full_turn);
  for (int y = 0; y <= LATTICE; y++)
    for (int x = 0; x <= LATTICE; x++) out->lattice[y][x] = np_rng_u32(rng) * 0x1p-31 - 1;
}

static double smooth_noise(const paint *p, double u, double v) {
  double x = u * LATTICE, y = v * LATTICE;
  int i = (int)x, j = (int)y;
  x -= i, y -= j;
  x *= x * (3 - 2 * x), y *= y * (3 - 2 * y);
  double above = p->lattice[j][i] * (1 - x) + p->lattice[j][i + 1] * x;
  double below = p->lattice[j + 1][i] * (1 - x) + p->lattice[j + 1][i + 1] * x;
  return above * (1 - y) + below * y;
}

/* u, v in [0, 1): so the lattice is never left. */
static void colour_at(const paint *p, double u, double v, double out[3]) {
  double along = full_turn * (p->wave.x * u + p->wave.y * v) + p->phase;
  double across = full_turn * (p->wave.x * v - p->wave.y * u) + p->phase;
  double t = 0;
  switch (p->kind) {
  case STRIPES:
  case GRADIENT:
    t = sin(along);
    break;
  case DOTS:
    t = tanh(3 * (sin(along) * sin(across) - .2));
    break;
  case NOISE:
    t = 1.5 * smooth_noise(p, u, v);
    break;
  default:
    break;
  }
  for (int c = 0; c < 3; c++) out[c] = p->base[c] + p->swing[c] * t;
}

/* ---- scenes
 * ---------------------------------------------------------------------------------------------------------- */

enum { CLUTTER_BELOW = 4, CLUTTER_ABOVE = 2, LAYERS = CLUTTER_BELOW + 1 + CLUTTER_ABOVE };

typedef struct layer {
  double (*distance)(point p);
  point centre;
  double radius, cosine, sine;
  paint paint;
} layer;

typedef struct scene {
  paint ground;
  layer layers[LAYERS];
  int count;
} scene;

static void draw_layer(np_rng *rng, layer *out, double (*distance)(point p), double least, double most, double margin) {
  double angle = between(rng, 0, full_turn);
  out->distance = distance;
  out->radius = between(rng, least, most);
  out->centre = (point){between(rng, margin, 1 - margin), between(rng, margin, 1 - margin)};
  out->cosine = cos(angle);
  out->sine = sin(angle);
  draw_paint(rng, &out->paint);
}

static void draw_clutter(np_rng *rng, scene *s, int most) {
  int count = (int)np_rng_below(rng, (uint32_t)most + 1);
  for (int i = 0; i < count; i++)
    draw_layer(rng, &s->layers[s->count++], np_rng_below(rng, 2) ? stroke : blob, .06, .13, 0);
}

static double contrast(const paint *a, const paint *b) {
  return sqrt(pow(a->base[0] - b->base[0], 2) + pow(a->base[1] - b->base[1], 2) + pow(a->base[2] - b->base[2], 2));
}

static void draw_scene(np_rng *rng, int class_number, scene *s) {
  s->count = 0;
  draw_paint(rng, &s->ground);
  draw_clutter(rng, s, CLUTTER_BELOW);
  layer *shape = &s->layers[s->count++];
  do
    draw_layer(rng, shape, classes[class_number].distance, .26, .42,
               .34); /* margin: most of the shape is in the image */
  while (contrast(&shape->paint, &s->ground) < .4);
  draw_clutter(rng, s, CLUTTER_ABOVE);
}

static void put_layer(const layer *l, double u, double v, int size, double colour[3]) {
  double x = u - l->centre.x, y = v - l->centre.y, reach = 1.1 * l->radius + 1.0 / size;
  if (x * x + y * y > reach * reach) return;
  point local = {(x * l->cosine + y * l->sine) / l->radius, (y * l->cosine - x * l->sine) / l->radius};
  double cover = .5 - l->distance(local) * l->radius * size, paint_colour[3];
  if (cover <= 0) return;
  if (cover > 1) cover = 1;
  colour_at(&l->paint, u, v, paint_colour);
  for (int c = 0; c < 3; c++) colour[c] += cover * (paint_colour[c] - colour[c]);
}

void np_synth_draw(uint64_t seed, int part, int64_t index, int class_number, int size, uint8_t *pixels) {
  enum { GRAIN = 5 }; /* grey levels of noise to either side */
  np_rng rng = np_rng_make(seed, NP_PURPOSE_SYNTH, (uint32_t)part, (uint64_t)index);
  scene s;
  draw_scene(&rng, class_number, &s);
  for (int y = 0; y < size; y++) {
    for (int x = 0; x < size; x++) {
      double u = (x + .5) / size, v = (y + .5) / size, colour[3];
      uint32_t noise = np_rng_u32(&rng);
      colour_at(&s.ground, u, v, colour);
      for (int i = 0; i < s.count; i++) put_layer(&s.layers[i], u, v, size, colour);
      for (int c = 0; c < 3; c++) {
        double value = colour[c] * 255 + (int)(noise >> (8 * c) & 0xff) % (2 * GRAIN + 1) - GRAIN;
        *pixels++ = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : lrint(value));
      }
    }
  }
}
