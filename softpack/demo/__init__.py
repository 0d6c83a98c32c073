"""`softpack demo`: a real teacher, real photos and a real student, on the machine at hand in three minutes.

Nothing is downloaded: weights and photos come with the packages of the extra `softpack[demo]`.
"""
