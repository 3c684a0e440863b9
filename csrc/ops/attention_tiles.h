/* Which keys a query sees, tile by tile. Pure functions, for the host and for kernels; every attention operator asks
 * them.
 *
 * The mask of prefix-causal attention is one integer an image, the prefix length S: query i sees key j when j <= i or j
 * < S. So a query sees one run of keys from 0 to its limit, max(i + 1, S), and limits never fall from one query to the
 * next. Cut into tiles (here 4 queries × 4 keys, S = 6, N = 16; # seen, . hidden):
 *
 *              keys 0-3  4-7  8-11 12-15
 *   queries 0-3   ####  ##..  ....  ....      full     every pair of the tile is seen: the loop tests nothing
 *                 ####  ##..  ....  ....
 *                 ####  ##..  ....  ....      partial  on the border; element by element
 *                 ####  ##..  ....  ....
 *           4-7   ####  ##..  ....  ....      hidden   not loaded, not computed: such tiles lie at the right, so that a
 *                 ####  ##..  ....  ....               query tile is a loop over its first np_attention_key_tiles tiles
 *                 ####  ###.  ....  ....
 *                 ####  ####  ....  ....
 *          8-11   ####  ####  #...  ....
 *                 ####  ####  ##..  ....
 *                 ####  ####  ###.  ....
 *                 ####  ####  ####  ....
 *         12-15   ####  ####  ####  #...
 *                 ####  ####  ####  ##..
 *                 ####  ####  ####  ###.
 *                 ####  ####  ####  ####
 *
 * A partial tile has at most two borders: the vertical one at S and the diagonal. S = 0 is plain causal attention; S =
 * N makes every tile full. The last tile of a side may stick out beyond N; pairs out there do not count for its kind.
 */
#ifndef NP_OPS_ATTENTION_TILES_H
#define NP_OPS_ATTENTION_TILES_H

#ifdef __CUDACC__
#define NP_TILE_FUNCTION static inline __host__ __device__
#else
#define NP_TILE_FUNCTION static inline
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* One image's attention and how it is tiled. */
typedef struct np_attention_map {
  int tokens;        /* N >= 1 */
  int prefix;        /* S, 0 … N */
  int queries, keys; /* sides of a tile */
} np_attention_map;

typedef enum np_tile_kind { NP_TILE_HIDDEN, NP_TILE_PARTIAL, NP_TILE_FULL } np_tile_kind;

/* Whether query i sees key j, both < N. */
NP_TILE_FUNCTION int np_attention_sees(const np_attention_map *map, int i, int j) { return j <= i || j < map->prefix; }

/* Query i sees exactly the keys below this: 1 … N. */
NP_TILE_FUNCTION int np_attention_limit(const np_attention_map *map, int i) {
  return i + 1 > map->prefix ? i + 1 : map->prefix;
}

/* Pairs of query and key that see each other: S queries of S keys, then S + 1, …, N; S = N: all N². */
NP_TILE_FUNCTION double np_attention_pairs(int tokens, int prefix) {
  double N = tokens, S = prefix;
  return S * S + (N * (N + 1) - S * (S + 1)) / 2;
}

/* Key j is seen by exactly the queries from this on: 0 … N - 1. */
NP_TILE_FUNCTION int np_attention_first_query(const np_attention_map *map, int j) { return j < map->prefix ? 0 : j; }

/* How many query tiles there are. */
NP_TILE_FUNCTION int np_attention_query_tiles(const np_attention_map *map) {
  return (map->tokens + map->queries - 1) / map->queries;
}

/* Query tile t sees something of exactly its first so many key tiles: at least 1. */
NP_TILE_FUNCTION int np_attention_key_tiles(const np_attention_map *map, int t) {
  int last = (t + 1) * map->queries - 1;
  if (last >= map->tokens) last = map->tokens - 1;
  return (np_attention_limit(map, last) + map->keys - 1) / map->keys;
}

/* What query tile t and key tile u have in common. */
NP_TILE_FUNCTION np_tile_kind np_attention_kind(const np_attention_map *map, int t, int u) {
  int end = (u + 1) * map->keys;
  if (end > map->tokens) end = map->tokens;
  if (u >= np_attention_key_tiles(map, t)) return NP_TILE_HIDDEN;
  return end <= np_attention_limit(map, t * map->queries) ? NP_TILE_FULL : NP_TILE_PARTIAL;
}

#ifdef __cplusplus
}
#endif

#endif
