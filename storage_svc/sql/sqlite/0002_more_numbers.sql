-- Slope of the line's frequency over the recording, of summaries.
ALTER TABLE measurements ADD COLUMN frequency_drift_hz_per_s REAL;

-- How the line's frequency changes from window to window, of summaries.
ALTER TABLE measurements ADD COLUMN frequency_scatter_hz REAL;

-- Width of the emission 26 dB below its highest point, of summaries.
ALTER TABLE measurements ADD COLUMN x_db_bandwidth_hz REAL;

-- Mean fourth power of the amplitude over the square of its mean power, of summaries.
ALTER TABLE measurements ADD COLUMN kurtosis REAL;

-- Highest power over the mean, of summaries.
ALTER TABLE measurements ADD COLUMN crest_factor_db REAL;

-- Geometric over arithmetic mean of the spectrum, of summaries.
ALTER TABLE measurements ADD COLUMN spectral_flatness_ratio REAL;

-- Share of the samples at the last code of their format, of summaries.
ALTER TABLE measurements ADD COLUMN clipped_ratio REAL;

-- Share of the steps that look like an overflow, of summaries.
ALTER TABLE measurements ADD COLUMN wrapped_ratio REAL;

-- Magnitude of the mean of all samples, of summaries.
ALTER TABLE measurements ADD COLUMN dc_offset_dbfs REAL;

-- Power of the emission's mirror image over its own, of summaries.
ALTER TABLE measurements ADD COLUMN image_ratio_db REAL;

-- What is no single number, of summaries: a heimdall.common.v1.MeasurementProducts.
ALTER TABLE measurements ADD COLUMN products BLOB;

-- Slope of the line's frequency over the recording, of windows.
ALTER TABLE measurement_windows ADD COLUMN frequency_drift_hz_per_s REAL;

-- How the line's frequency changes from window to window, of windows.
ALTER TABLE measurement_windows ADD COLUMN frequency_scatter_hz REAL;

-- Width of the emission 26 dB below its highest point, of windows.
ALTER TABLE measurement_windows ADD COLUMN x_db_bandwidth_hz REAL;

-- Mean fourth power of the amplitude over the square of its mean power, of windows.
ALTER TABLE measurement_windows ADD COLUMN kurtosis REAL;

-- Highest power over the mean, of windows.
ALTER TABLE measurement_windows ADD COLUMN crest_factor_db REAL;

-- Geometric over arithmetic mean of the spectrum, of windows.
ALTER TABLE measurement_windows ADD COLUMN spectral_flatness_ratio REAL;

-- Share of the samples at the last code of their format, of windows.
ALTER TABLE measurement_windows ADD COLUMN clipped_ratio REAL;

-- Share of the steps that look like an overflow, of windows.
ALTER TABLE measurement_windows ADD COLUMN wrapped_ratio REAL;

-- Magnitude of the mean of all samples, of windows.
ALTER TABLE measurement_windows ADD COLUMN dc_offset_dbfs REAL;

-- Power of the emission's mirror image over its own, of windows.
ALTER TABLE measurement_windows ADD COLUMN image_ratio_db REAL;

-- What is no single number, of windows: a heimdall.common.v1.MeasurementProducts.
ALTER TABLE measurement_windows ADD COLUMN products BLOB;
