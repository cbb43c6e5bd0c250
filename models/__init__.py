"""Networks and pictures: the one decoder, preprocessing, encoders, training. Only this room knows torch and Pillow."""
