# POYO on the spikes themselves: trained on two days, then given 20 s of a third one.
spiketok simulate --subjects 1 --sessions-per-subject 3 --units 30 --duration-s 120
spiketok tokenize --scheme per-spike
spiketok train --model poyo --set optim.steps=250
spiketok eval-xsession --calibration-s 20 --protocols zero_shot,identity_only,full
