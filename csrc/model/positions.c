#include "model/model.h"

#include <math.h>

/* The table of one axis: sin then cos of position / 10000^(i/(half/2)), i = 0 .. half/2 - 1, in float64. */
static void axis(int position, int half, float *out) {
  int frequencies = half / 2;
  for (int i = 0; i < frequencies; i++) {
    double angle = position / pow(10000.0, (double)i / frequencies);
    out[i] = (float)sin(angle);
    out[frequencies + i] = (float)cos(angle);
  }
}

void np_positions(int rows, int columns, int width, float *out) {
  for (int row = 0; row < rows; row++) {
    for (int column = 0; column < columns; column++) {
      float *at = out + ((int64_t)row * columns + column) * width;
      axis(column, width / 2, at);
      axis(row, width / 2, at + width / 2);
    }
  }
}
