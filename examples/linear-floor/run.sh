# A Wiener filter on lagged counts: the floor beside which every score of transfer stands.
spiketok simulate --subjects 1 --sessions-per-subject 3 --units 30 --duration-s 120
spiketok tokenize --scheme binned --bin-ms 20
spiketok train --model linear
spiketok eval-xsession --calibration-s 20
