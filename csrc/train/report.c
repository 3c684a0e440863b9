#include "train/report.h"

#include "train/metrics.h"
#include "train/progress.h"
#include "train/report_chart.h"
#include "util/file.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LARGEST_TEXT = 16 << 20 };

static const char style[] =
    "<style>\n"
    ":root{color-scheme:light "
    "dark;--page:#fbfbfa;--card:#fff;--text:#1d1d1b;--soft:#6b6a66;--rule:#e4e3df;--blue:#2a6fbb;"
    "--pale:#a9c8e8;--grey:#b9b7b0}\n"
    "@media(prefers-color-scheme:dark){:root{--page:#191918;--card:#222221;--text:#ecebe7;--soft:#a3a19a;--rule:#"
    "3a3937;"
    "--blue:#6aa9ea;--pale:#34536f;--grey:#66645e}}\n"
    "body{margin:0;background:var(--page);color:var(--text);font:15px/1.5 system-ui,sans-serif}\n"
    "main{max-width:56rem;margin:0 auto;padding:2rem 1.2rem 4rem}\n"
    "h1{font-size:1.6rem;margin:0}h2{font-size:1.1rem;margin:2.2rem 0 .6rem}p{margin:.3rem 0;color:var(--soft)}\n"
    ".card{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:1rem;overflow-x:auto}\n"
    ".tiles{display:flex;flex-wrap:wrap;gap:.8rem;margin-top:1.2rem}\n"
    ".tile{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:.6rem 1rem;min-width:7.5rem}\n"
    ".tile b{display:block;font-size:1.3rem;font-weight:600}.tile span{color:var(--soft);font-size:.85rem}\n"
    "svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font-size:12px}\n"
    ".grid{stroke:var(--rule);stroke-width:1}.raw{fill:none;stroke:var(--pale);stroke-width:1.2}\n"
    ".line{fill:none;stroke:var(--blue);stroke-width:2;stroke-linejoin:round}\n"
    "table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.35rem .8rem .35rem 0}\n"
    "th{color:var(--soft);font-weight:500}td.n,th.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-"
    "nums}\n"
    ".bar{height:12px;border-radius:3px;background:var(--grey)}.bar.pretrained{background:var(--blue)}\n"
    ".pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(22rem,1fr));gap:.8rem}\n"
    ".pictures img{width:100%;image-rendering:pixelated;border-radius:4px;display:block}\n"
    "pre{font:13px/1.45 ui-monospace,monospace;margin:0;overflow-x:auto}\n"
    "</style>\n";

static void put_escaped(FILE *to, const char *text) {
  for (; *text; text++) {
    switch (*text) {
    case '<':
      fputs("&lt;", to);
      break;
    case '>':
      fputs("&gt;", to);
      break;
    case '&':
      fputs("&amp;", to);
      break;
    case '"':
      fputs("&quot;", to);
      break;
    default:
      fputc(*text, to);
    }
  }
}

static void put_base64(FILE *to, const uint8_t *bytes, size_t size) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (size_t i = 0; i < size; i += 3) {
    uint32_t group = (uint32_t)bytes[i] << 16;
    if (i + 1 < size) group |= (uint32_t)bytes[i + 1] << 8;
    if (i + 2 < size) group |= bytes[i + 2];
    fputc(digits[group >> 18], to);
    fputc(digits[group >> 12 & 63], to);
    fputc(i + 1 < size ? digits[group >> 6 & 63] : '=', to);
    fputc(i + 2 < size ? digits[group & 63] : '=', to);
  }
}

/* ---- parts ------------------------------------------------------------------------------------------------------- */

static void put_head(FILE *to, const char *run, const cJSON *record) {
  static const char *const shown[] = {"version", "commit", "started", "host", "precision", "seed"};
  fputs("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
        "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>nextpatch: ",
        to);
  put_escaped(to, run);
  fprintf(to, "</title>\n%s</head><body><main>\n<h1>", style);
  put_escaped(to, run);
  fputs("</h1>\n<p>nextpatch", to);
  for (size_t i = 0; i < sizeof shown / sizeof *shown; i++) {
    const char *value = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(record, shown[i]));
    if (!value) continue;
    fprintf(to, " · %s ", shown[i]);
    put_escaped(to, value);
  }
  fputs("</p>\n", to);
}

static void put_tile(FILE *to, const char *name, const char *format, double value) {
  fputs("<div class=\"tile\"><b>", to);
  fprintf(to, format, value);
  fprintf(to, "</b><span>%s</span></div>\n", name);
}

static void put_tiles(FILE *to, const np_metric *last, const np_report_content *content) {
  char time[24];
  fputs("<div class=\"tiles\">\n", to);
  put_tile(to, "steps", "%.0f", (double)last->step);
  put_tile(to, "epochs", "%.2f", last->epoch);
  put_tile(to, "last loss", "%.4f", last->loss);
  put_tile(to, "images/s", "%.1f", last->images_per_s);
  fprintf(to, "<div class=\"tile\"><b>%s</b><span>training time</span></div>\n", np_progress_time(last->seconds, time));
  for (int i = 0; i < content->score_count; i++) {
    char name[64];
    snprintf(name, sizeof name, "top-1, %s trunk", content->scores[i].trunk);
    put_tile(to, name, "%.1f %%", content->scores[i].top1);
  }
  fputs("</div>\n", to);
}

static void put_scores(FILE *to, const np_report_content *content) {
  if (content->score_count == 0) return;
  fputs("<h2>Attentive probe</h2>\n<div class=\"card\"><table>\n<tr><th>trunk</th><th style=\"width:45%\"></th><th "
        "class=\"n\">top-1"
        "</th><th class=\"n\">top-5</th><th class=\"n\">learning rate</th><th class=\"n\">decay</th><th "
        "class=\"n\">images</th>"
        "</tr>\n",
        to);
  for (int i = 0; i < content->score_count; i++) {
    const np_report_score *s = &content->scores[i];
    bool pretrained = !strcmp(s->trunk, "pretrained");
    fputs("<tr><td>", to);
    put_escaped(to, s->trunk);
    fprintf(to,
            "</td><td><div class=\"bar%s\" style=\"width:%.2f%%\"></div></td><td class=\"n\">%.2f %%</td><td "
            "class=\"n\">%.2f "
            "%%</td><td class=\"n\">%g</td><td class=\"n\">%g</td><td class=\"n\">%" PRId64 "</td></tr>\n",
            pretrained ? " pretrained" : "", fmax(0, fmin(100, s->top1)), s->top1, s->top5, s->lr, s->weight_decay,
            s->images);
  }
  fputs("</table></div>\n", to);
}

/* Mean over a window of a fiftieth of the points to each side, so that the trend shows through the noise of single
 * steps. */
static void smooth(const double *values, int count, double *out) {
  int reach = count / 50;
  for (int i = 0; i < count; i++) {
    double sum = 0;
    int seen = 0;
    for (int j = i - reach; j <= i + reach; j++) {
      if (j < 0 || j >= count || !isfinite(values[j])) continue;
      sum += values[j];
      seen++;
    }
    out[i] = seen ? sum / seen : NAN;
  }
}

static np_status put_curves(FILE *to, const np_metric *metrics, int count) {
  double *room = malloc((size_t)count * 4 * sizeof *room);
  if (!room) return np_error(NP_ERR_MEMORY, "no memory for the curves of %d points", count);
  double *x = room, *loss = room + count, *mean = loss + count, *lr = mean + count;
  for (int i = 0; i < count; i++) {
    x[i] = (double)metrics[i].step;
    loss[i] = metrics[i].loss;
    lr[i] = metrics[i].lr;
  }
  smooth(loss, count, mean);
  fputs("<h2>Loss</h2>\n<div class=\"card\">", to);
  np_chart_draw(to, &(np_chart){"loss by step", "step", x, loss, mean, count, 320});
  fputs("</div>\n<h2>Learning rate</h2>\n<div class=\"card\">", to);
  np_chart_draw(to, &(np_chart){"learning rate by step", "step", x, lr, NULL, count, 170});
  fputs("</div>\n", to);
  free(room);
  return NP_OK;
}

static void put_pictures(FILE *to, const np_report_content *content) {
  if (content->picture_count == 0) return;
  fputs("<h2>Predicted patches</h2>\n<p>", to);
  if (content->picture_note) put_escaped(to, content->picture_note);
  fputs("</p>\n<div class=\"pictures\">\n", to);
  for (int i = 0; i < content->picture_count; i++) {
    fputs("<img alt=\"given, predicted, true\" src=\"data:image/png;base64,", to);
    put_base64(to, content->pictures[i].png, content->pictures[i].size);
    fputs("\">\n", to);
  }
  fputs("</div>\n", to);
}

static void put_settings(FILE *to, const char *recipe, const cJSON *record) {
  const char *command = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(record, "command"));
  if (command && *command) {
    fputs("<h2>Command</h2>\n<div class=\"card\"><pre>", to);
    put_escaped(to, command);
    fputs("</pre></div>\n", to);
  }
  fputs("<h2>Settings</h2>\n<div class=\"card\"><pre>", to);
  put_escaped(to, recipe);
  fputs("</pre></div>\n", to);
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

np_status np_report_write(const char *path, const np_report_content *content) {
  np_status st = NP_OK;
  np_metric *metrics = NULL;
  int count = 0;
  size_t size = 0, unused = 0;
  char *html = NULL, *recipe = NULL, *about = NULL;
  char *recipe_path = np_path_join(content->run, "recipe.yaml"), *about_path = np_path_join(content->run, "run.json");
  cJSON *record = NULL;
  FILE *to = NULL;
  NP_TRY(np_file_read(recipe_path, LARGEST_TEXT, &recipe, &unused));
  NP_TRY(np_file_read(about_path, LARGEST_TEXT, &about, &unused));
  NP_TRY(np_metrics_read(content->run, &metrics, &count));
  if (count == 0) {
    st = np_error(NP_ERR_IO, "'%s/metrics.jsonl' holds no line yet: nothing to report", content->run);
    goto out;
  }
  record = cJSON_Parse(about);
  to = open_memstream(&html, &size);
  if (!to) {
    st = np_error(NP_ERR_MEMORY, "no memory for the report");
    goto out;
  }
  put_head(to, content->run, record);
  put_tiles(to, &metrics[count - 1], content);
  put_scores(to, content);
  NP_TRY(put_curves(to, metrics, count));
  put_pictures(to, content);
  put_settings(to, recipe, record);
  fputs("</main></body></html>\n", to);
  bool failed = ferror(to) != 0;
  failed |= fclose(to) != 0;
  to = NULL;
  st = failed ? np_error(NP_ERR_MEMORY, "no memory for the report") : np_file_write(path, html, size);
out:
  if (to) fclose(to);
  cJSON_Delete(record);
  free(html);
  free(metrics);
  free(about);
  free(recipe);
  free(about_path);
  free(recipe_path);
  return st;
}

np_status np_report_read_score(const char *path, np_report_score *out) {
  np_status st = NP_OK;
  char *text = NULL;
  size_t size;
  cJSON *json = NULL;
  NP_TRY(np_file_read(path, LARGEST_TEXT, &text, &size));
  json = cJSON_ParseWithLength(text, size);
  const cJSON *best = cJSON_GetObjectItemCaseSensitive(json, "best");
  const char *init = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "init"));
  *out = (np_report_score){
      .top1 = cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(best, "top1")),
      .top5 = cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(best, "top5")),
      .lr = cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(best, "lr")),
      .weight_decay = cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(best, "weight_decay")),
  };
  double images = cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(json, "val_images"));
  if (!init || !isfinite(out->top1) || !isfinite(out->top5) || !(images >= 0 && images < 1e15)) {
    st = np_error(NP_ERR_FORMAT, "'%s' is not a result of 'nextpatch probe'", path);
    goto out;
  }
  out->images = (int64_t)images;
  snprintf(out->trunk, sizeof out->trunk, "%s", init);
out:
  cJSON_Delete(json);
  free(text);
  return st;
}
