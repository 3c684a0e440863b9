/* Line charts as SVG. */
#ifndef NP_TRAIN_REPORT_CHART_H
#define NP_TRAIN_REPORT_CHART_H

#include <stdio.h>

typedef struct np_chart {
  const char *title;
  const char *x_name;
  const double *x, *y;  /* [count], x ascending; points that are not finite are left out and break the line */
  const double *smooth; /* [count] a second, bolder line, or NULL */
  int count;
  int height; /* of the drawing, in its own units; it is 720 wide */
} np_chart;

void np_chart_draw(FILE *to, const np_chart *chart);

#endif
