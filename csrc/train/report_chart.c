#include "train/report_chart.h"

#include <math.h>
#include <stdbool.h>

enum { WIDTH = 720, LEFT = 64, RIGHT = 28, TOP = 10, BOTTOM = 36 };

typedef struct axis {
  double low, high, step; /* of the ticks */
} axis;

/* Round ticks, about `wanted` of them, that span low..high. */
static axis make_axis(double low, double high, int wanted) {
  if (!(high > low)) high = low + (low != 0 ? fabs(low) : 1);
  double raw = (high - low) / wanted, power = pow(10, floor(log10(raw))), digit = raw / power;
  axis a = {.step = power * (digit <= 1 ? 1 : digit <= 2 ? 2 : digit <= 5 ? 5 : 10)};
  a.low = floor(low / a.step) * a.step;
  a.high = ceil(high / a.step) * a.step;
  return a;
}

static void range(const double *values, int count, double *low, double *high) {
  for (int i = 0; i < count; i++) {
    if (!isfinite(values[i])) continue;
    *low = fmin(*low, values[i]);
    *high = fmax(*high, values[i]);
  }
}

typedef struct frame {
  const np_chart *chart;
  axis x, y;
} frame;

static double place_x(const frame *f, double x) {
  return LEFT + (x - f->x.low) / (f->x.high - f->x.low) * (WIDTH - LEFT - RIGHT);
}

static double place_y(const frame *f, double y) {
  return f->chart->height - BOTTOM - (y - f->y.low) / (f->y.high - f->y.low) * (f->chart->height - TOP - BOTTOM);
}

static void draw_axes(FILE *to, const frame *f) {
  int bottom = f->chart->height - BOTTOM;
  for (int i = 0; f->y.low + i * f->y.step <= f->y.high + f->y.step / 2; i++) {
    double value = f->y.low + i * f->y.step, y = place_y(f, value);
    if (fabs(value) < f->y.step * 1e-9) value = 0;
    fprintf(to, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>", LEFT, WIDTH - RIGHT, y, y);
    fprintf(to, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.6g</text>\n", LEFT - 8, y + 4, value);
  }
  for (int i = 0; f->x.low + i * f->x.step <= f->x.high + f->x.step / 2; i++) {
    double value = f->x.low + i * f->x.step;
    fprintf(to, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.6g</text>\n", place_x(f, value), bottom + 17,
            value);
  }
  fprintf(to, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", WIDTH - RIGHT, bottom + 33, f->chart->x_name);
}

static void draw_line(FILE *to, const frame *f, const double *values, const char *class) {
  bool down = false;
  fprintf(to, "<path class=\"%s\" d=\"", class);
  for (int i = 0; i < f->chart->count; i++) {
    if (!isfinite(values[i])) {
      down = false;
      continue;
    }
    fprintf(to, "%s%.1f %.1f", down ? "L" : "M", place_x(f, f->chart->x[i]), place_y(f, values[i]));
    down = true;
  }
  fputs("\"/>\n", to);
}

void np_chart_draw(FILE *to, const np_chart *chart) {
  double low = INFINITY, high = -INFINITY, first = INFINITY, last = -INFINITY;
  range(chart->y, chart->count, &low, &high);
  range(chart->x, chart->count, &first, &last);
  if (!isfinite(low)) low = high = 0;
  if (!isfinite(first)) first = last = 0;
  frame f = {chart, make_axis(first, last, 8), make_axis(low, high, 5)};
  f.x.low = first; /* the line reaches from edge to edge; ticks stay round because runs begin near step 0 */
  if (first <= f.x.step) f.x.low = 0;
  f.x.high = fmax(last, f.x.low + f.x.step);
  fprintf(to, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">\n", WIDTH, chart->height, chart->title);
  draw_axes(to, &f);
  draw_line(to, &f, chart->y, chart->smooth ? "raw" : "line");
  if (chart->smooth) draw_line(to, &f, chart->smooth, "line");
  fputs("</svg>\n", to);
}
