/* Cells to padded ids (cells.py): cells [rows, count] of 0 and 1, lengths [rows] of ones in each -> ids
   [rows, frames * longest]: the ids of a row's ones, the same of every further frame after them, then zeros. */

#include <stdint.h>
#include <string.h>

void cells_to_ids(const uint8_t *cells, const int64_t *lengths, int64_t *ids, long rows, long count, long frames, long longest) {
    for (long row = 0; row < rows; row++, cells += count, ids += frames * longest) {
        const long length = lengths[row];
        long found = 0;
        for (long cell = 0; found < length; cell++) { /* without a branch: overwritten until a one comes */
            ids[found] = cell;
            found += cells[cell];
        }
        for (long frame = 1; frame < frames; frame++) {
            int64_t *here = ids + frame * length;
            for (long i = 0; i < length; i++) here[i] = ids[i] + frame * count;
        }
        memset(ids + frames * length, 0, (size_t)(frames * (longest - length)) * sizeof *ids);
    }
}
