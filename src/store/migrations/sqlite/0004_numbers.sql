-- One index a stream instead of two: every commit touches a page of each for every stream in it, and with thousands of devices those pages
-- are most of what a commit writes. A stream's samples lie in the order of their numbers but for the late ones, so a number is found by
-- halving; late ones are few and have an index of their own. That no number is stored twice is the work of the compare-and-set on the
-- stream's row.
DROP INDEX samples_by_number;
CREATE INDEX samples_late ON samples (stream_id, epoch, seq) WHERE (flags & 8) <> 0;
