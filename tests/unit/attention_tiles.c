/* The tile map against the element mask, counted one by one. */
#include "ops/attention_tiles.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void check(const np_attention_map *map) {
  int n = map->tokens, all = 0;
  for (int i = 0; i < n; i++) {
    int seen = 0;
    for (int j = 0; j < n; j++) {
      int sees = np_attention_sees(map, i, j);
      assert_int_equal(sees, j <= i || j < map->prefix);
      seen += sees;
      assert_int_equal(sees, j < np_attention_limit(map, i));
      assert_int_equal(sees, i >= np_attention_first_query(map, j));
    }
    assert_int_equal(seen, np_attention_limit(map, i));
    all += seen;
  }
  assert_true(np_attention_pairs(n, map->prefix) == all);
  int tiles = np_attention_query_tiles(map);
  assert_true(tiles * map->queries >= n && (tiles - 1) * map->queries < n);
  for (int t = 0; t < tiles; t++) {
    int visible = 0;
    for (int u = 0; u * map->keys < n; u++) {
      int seen = 0, pairs = 0;
      for (int i = t * map->queries; i < (t + 1) * map->queries && i < n; i++)
        for (int j = u * map->keys; j < (u + 1) * map->keys && j < n; j++, pairs++)
          seen += np_attention_sees(map, i, j);
      np_tile_kind kind = seen == 0 ? NP_TILE_HIDDEN : seen == pairs ? NP_TILE_FULL : NP_TILE_PARTIAL;
      assert_int_equal(np_attention_kind(map, t, u), kind);
      if (kind != NP_TILE_HIDDEN) {
        assert_int_equal(visible, u); /* visible tiles are the first ones */
        visible++;
      }
    }
    assert_int_equal(np_attention_key_tiles(map, t), visible);
  }
}

static void test_map(void **state) {
  (void)state;
  static const int sides[][2] = {{1, 1}, {4, 4}, {8, 4}, {4, 8}, {64, 64}, {128, 64}, {7, 5}};
  static const int lengths[] = {1, 2, 7, 16, 63, 64, 65, 130};
  for (size_t s = 0; s < sizeof sides / sizeof *sides; s++)
    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++)
      for (int prefix = 0; prefix <= lengths[l]; prefix += prefix < 9 || prefix > lengths[l] - 3 ? 1 : 3) {
        const np_attention_map map = {
            .tokens = lengths[l], .prefix = prefix, .queries = sides[s][0], .keys = sides[s][1]};
        check(&map);
      }
}

/* The drawing in the header: S = 6, N = 16, tiles of 4. */
static void test_drawing(void **state) {
  (void)state;
  const np_attention_map map = {.tokens = 16, .prefix = 6, .queries = 4, .keys = 4};
  static const char drawn[4][5] = {"fp..", "fp..", "ffp.", "fffp"};
  for (int t = 0; t < 4; t++)
    for (int u = 0; u < 4; u++) assert_int_equal(".pf"[np_attention_kind(&map, t, u)], drawn[t][u]);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_map), cmocka_unit_test(test_drawing)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
