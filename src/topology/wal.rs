//! The layout of WAL pages, as far as positions care.

use super::Lsn;

/// `SizeOfXLogShortPHD` (`src/include/access/xlog_internal.h`): the header of an ordinary page.
const SHORT_HEADER: u64 = 24;

/// `SizeOfXLogLongPHD`: the header of a segment's first page.
const LONG_HEADER: u64 = 40;

/// Sizes that `initdb` fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalLayout {
    /// `wal_block_size`, in bytes; a power of two.
    pub page: u64,
    /// `wal_segment_size`, in bytes; a power of two.
    pub segment: u64,
}

impl WalLayout {
    /// The position that replay reaches when all WAL up to an *insert* position is replayed.
    ///
    /// An insert position at a page boundary is given as the place after the header of the next
    /// page, which nothing has been written to yet (`XLogBytePosToRecPtr`). Replay stops at the page's start
    /// (`XLogBytePosToEndRecPtr`). No record ends just behind a header, so the two mean the same.
    pub fn replayable(self, insert: Lsn) -> Lsn {
        if self.page == 0 || self.segment == 0 {
            return insert;
        }
        let in_page = insert.0 % self.page;
        let page_start = insert.0 - in_page;
        let header = if page_start.is_multiple_of(self.segment) { LONG_HEADER } else { SHORT_HEADER };
        if in_page == header { Lsn(page_start) } else { insert }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_behind_a_page_header_is_the_page_start() {
        const MIB16: u64 = 16 << 20;
        let (usual, small) = (WalLayout { page: 8192, segment: MIB16 }, WalLayout { page: 1024, segment: 1 << 20 });
        for (what, layout, insert, expected) in [
            ("long header", usual, MIB16 + 40, MIB16),
            ("short header", usual, MIB16 + 8192 + 24, MIB16 + 8192),
            ("page start already", usual, MIB16 + 8192, MIB16 + 8192),
            ("segment start already", usual, MIB16, MIB16),
            ("short header's length in a first page", usual, MIB16 + 24, MIB16 + 24),
            ("long header's length in another page", usual, MIB16 + 8192 + 40, MIB16 + 8192 + 40),
            ("inside a page", usual, MIB16 + 8192 + 400, MIB16 + 8192 + 400),
            ("end of a page", usual, MIB16 + 8191, MIB16 + 8191),
            ("beyond 4 GiB", usual, (5 << 32) + 40, 5 << 32),
            ("other page size, short", small, (1 << 20) + 1024 + 24, (1 << 20) + 1024),
            ("other segment size, long", small, (3 << 20) + 40, 3 << 20),
            ("other page size, not a boundary", small, (3 << 20) + 512 + 40, (3 << 20) + 512 + 40),
        ] {
            assert_eq!(layout.replayable(Lsn(insert)), Lsn(expected), "{what}");
        }
    }
}
