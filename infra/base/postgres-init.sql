-- Runs once, on an empty volume. The catalog's database is made by the image.
CREATE DATABASE prefect;
