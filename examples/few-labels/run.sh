# Spikes first, labels later: NDT1 trained on spikes alone, then on a tenth of the labelled time; last, that tenth alone.
spiketok simulate --subjects 1 --sessions-per-subject 2 --units 30 --duration-s 120
spiketok train --model ndt1 --task population --set optim.steps=200 --hold-out none --tokenize
spiketok train --model ndt1 --task decode:cursor_vel --from "$(ls -d spiketok-data/runs/ndt1-*)" --set data.train_share=0.1 --set optim.steps=100 --hold-out none
spiketok train --model ndt1 --task decode:cursor_vel --set data.train_share=0.1 --set optim.steps=100 --hold-out none
