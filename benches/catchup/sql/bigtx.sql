-- One transaction; :rows is replaced.
BEGIN;
INSERT INTO metrics SELECT '2025-09-01'::timestamptz + (i/10000)*interval '15 min', 1+i%10000, random(),random(),random(),random(),random(),random(),random(),random(),random(),random(),'big'
FROM generate_series(0, :rows - 1) i;
UPDATE metrics SET cpu=cpu+1 WHERE time >= '2025-09-01' AND device_id <= 5000;
DELETE FROM metrics WHERE time >= '2025-09-01' AND device_id > 7500;
COMMIT;
